"""What a running server holds, built once and closed once."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

from selfalign.data.spec import RobotSpec
from selfalign.errors import SelfAlignError, SpecError
from server.assembly import make_ingest, make_sessions
from server.data_lock import DataLock
from server.durable import write_atomically
from server.engine import Engine, RobotPolicy
from server.metrics import Metrics
from server.problems import ProblemError
from server.registry import Registry, SwapEvent
from server.registry_errors import UnknownRobot

if TYPE_CHECKING:
    from collections.abc import Callable

    from selfalign.model.policy import Policy
    from server.settings import Settings

logger = logging.getLogger(__name__)

# A period of play at 50 Hz: for so long nothing else on the event loop need be looked after.
_SHORT_S = 0.02
# Ten times as far from the base as the gates let alignment go: a file of nonsense.
_LARGEST_W = 1000.0


@final
class Runtime:
    """The policy, the robots it serves, and the parts that record and align.

    The constructor loads files only. `start` begins threads and processes, `close` ends them.
    """

    def __init__(
        self,
        settings: Settings,
        policy: Policy,
        *,
        robot_policy: Callable[[Policy, RobotSpec], RobotPolicy],
    ) -> None:
        self.settings = settings
        self.policy = policy
        self.metrics = Metrics()
        self.model_info = describe_model(policy, settings.device)
        self.robots: dict[str, RobotSpec] = {}
        self.is_ready = False
        self.started_s = time.monotonic()
        self._robot_policy = robot_policy
        self._adding = threading.Lock()
        policies = self._policies()
        self._lock = DataLock(settings.data_dir)
        with ExitStack() as undo:
            undo.callback(self._lock.release)
            base_w = policy.base_w()
            self.registry = Registry(
                settings.data_dir / "w",
                base_w,
                policy.base_sha256,
                max_norm=_LARGEST_W * float(base_w.norm()) or None,
                keep_resident=settings.keep_resident,
            )
            self.registry.subscribe(self._count_swap)
            self.engine = Engine(
                self.registry,
                self.metrics,
                queue_depth=settings.queue_depth,
                prepare_thread=_inference_thread(settings),
            )
            for robot in policies:
                self._serve(robot)
            self.ingest = make_ingest(settings, self.metrics)
            self.sessions = make_sessions(
                settings,
                policy,
                self.registry,
                self.engine,
                self.metrics,
                self.ingest.recordings,
            )
            undo.pop_all()

    @property
    def default_robot(self) -> str:
        """The robot of a request that names none."""
        return next(iter(self.robots))

    def spec(self, robot: str | None) -> RobotSpec:
        """The spec of a robot, of the default robot for None. Raises UnknownRobot."""
        name = robot or self.default_robot
        spec = self.robots.get(name)
        if spec is None:
            raise UnknownRobot(name, sorted(self.robots))
        return spec

    def add_robot(self, spec: RobotSpec) -> bool:
        """Serve a robot from now on and remember its spec (blocking: file I/O).

        Returns:
            True if the robot is new, False if it is known with this very spec.

        Raises:
            SpecError: the model cannot take this spec.
            ProblemError: `robot-exists`, a robot of this name has another spec.
            OSError: the disk refuses the spec; the robot is not served.
        """
        with self._adding:
            known = self.robots.get(spec.name)
            if known is not None and known.digest == spec.digest:
                return False
            if known is not None:
                raise ProblemError(
                    "robot-exists",
                    f"robot {spec.name!r} is known with another spec (sha256 {known.digest[:12]}, "
                    f"yours {spec.digest[:12]}); W belongs to one spec, so give it a new name",
                )
            robot = self._robot_policy(self.policy, spec)
            file = self._robots_dir / f"{spec.name}.yaml"
            # First on disk: a robot that is served is there after the next start.
            file.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(file, spec.to_yaml().encode())
            try:
                self._serve(robot)
            except BaseException:
                file.unlink(missing_ok=True)
                raise
            return True

    async def start(self) -> None:
        """Begin to serve; returns once the policy has answered for each robot."""
        await asyncio.to_thread(self.ingest.start)
        await asyncio.to_thread(self.sessions.start)
        await self.engine.warm_up()
        if self.policy.device.type == "cpu" and not self.settings.compile:
            # A GPU's stream and what was compiled belong to one thread.
            self.engine.let_loop_help(_SHORT_S)
        self.is_ready = True
        self.metrics.ready.set(1)

    def render_metrics(self) -> bytes:
        """All metrics in the Prometheus text format (blocking: looks into the play store)."""
        try:
            self.metrics.play_bytes.set(self.ingest.recordings.recorded().used)
        except OSError as error:
            # A disk that fails must not hide the other metrics, which tell of it.
            logger.warning("the size of the play store is not known: %s", error)
        self.metrics.play_quota.set(self.ingest.config.quota_bytes)
        return self.metrics.render()

    async def close(self) -> None:
        """Stop every thread and process. Also right if `start` failed or was never called."""
        self.is_ready = False
        self.metrics.ready.set(0)
        try:
            # At once: each waits for a process that has something to finish.
            ends = await asyncio.gather(
                asyncio.to_thread(self.sessions.close),
                asyncio.to_thread(self.ingest.close),
                return_exceptions=True,
            )
            await asyncio.to_thread(self.engine.close)
        finally:
            self._lock.release()
        for error in ends:
            if isinstance(error, BaseException):
                raise error

    @property
    def _robots_dir(self) -> Path:
        return self.settings.data_dir / "robots"

    def _policies(self) -> list[RobotPolicy]:
        """The policy for each robot: those of the settings, then those that introduced themselves.

        Raises:
            SpecError: the model cannot take a robot of the settings, or there is none.
        """
        given = [RobotSpec.from_file(path) for path in self.settings.specs]
        if not given:
            raise SpecError("no robot spec; give one with --spec or SELFALIGN_SPECS")
        names = [spec.name for spec in given]
        if len(set(names)) < len(names):
            raise SpecError(f"two robot specs have one name: {', '.join(sorted(names))}")
        policies = {spec.name: self._robot_policy(self.policy, spec) for spec in given}
        for path in sorted(self._robots_dir.glob("*.yaml")):
            try:
                spec = RobotSpec.from_file(path)
                policies.setdefault(spec.name, self._robot_policy(self.policy, spec))
            except SelfAlignError as error:
                logger.warning("a robot that introduced itself is left out: %s", error)
        return list(policies.values())

    def _serve(self, robot: RobotPolicy) -> None:
        name = robot.spec.name
        self.engine.add_robot(robot)
        bundle = self.registry.add_robot(robot.spec)
        self.robots = {**self.robots, name: robot.spec}
        self.metrics.w_active.labels(name).set(bundle.version)

    def _count_swap(self, event: SwapEvent) -> None:
        self.metrics.w_active.labels(event.robot).set(event.version)
        self.metrics.w_swaps.labels(event.robot, event.reason).inc()


def load_runtime(settings: Settings) -> Runtime:
    """Load the model and the robot specs that the settings name.

    Raises:
        SelfAlignError: the model or a spec cannot be used.
    """
    # Heavy imports; `python -m server --help` and bad settings do without.
    from selfalign.align.robot_io import RobotIO
    from selfalign.model.checkpoint import PRECISIONS, load_policy, shipped_model_dir
    from selfalign.model.static_call import record_cuda_graph

    directory, dtype = settings.model_dir or shipped_model_dir(), PRECISIONS[settings.dtype]
    policy = load_policy(directory, device=settings.device, dtype=dtype)
    policy.compile_act_path(settings.compile)
    if settings.cuda_graphs and policy.device.type == "cuda":
        policy.record_chunks(record_cuda_graph)
    return Runtime(settings, policy, robot_policy=RobotIO)


def _inference_thread(settings: Settings) -> Callable[[], None]:
    def prepare() -> None:
        import torch

        from selfalign.model.device import use_urgent_stream

        torch.set_num_threads(settings.torch_threads)
        use_urgent_stream(torch.device(settings.device))

    return prepare


def describe_model(policy: Policy, device: str) -> dict[str, Any]:
    """The model as `/info` shows it."""
    config = policy.config
    w = policy.base_w()
    return {
        "variant": config.variant,
        "flavour": config.flavour,
        "base_sha256": policy.base_sha256,
        "parameters": sum(policy.num_parameters().values()),
        "w_parameters": int(w.W1.numel() + w.b1.numel()),
        "image_size": config.vision.image_size,
        "horizon": config.horizon,
        "device": device,
    }
