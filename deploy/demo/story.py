"""What is done with one embodiment: register, measure, play, align, swap, measure again."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, final

from tqdm import tqdm

from client import Backoff, Endpoint, OperatorClient, RobotClient
from deploy.demo.embodiments import Embodiment
from deploy.demo.rollouts import Rollout, measure
from deploy.demo.simulated_robot import SimulatedRobot
from server.wire.operator import AlignEvent, AlignRequest, AlignSession, Budget, SnapshotInfo

_NANOSECONDS: Final = 10**9
# Whatever happened to a busy machine, a demonstration rather waits than fails.
_PATIENCE: Final = Backoff(give_up_after_s=60.0)


class AlignmentFailed(Exception):
    """The session broke off, or another W serves than it says."""


@final
@dataclass(frozen=True)
class Plan:
    """How much of everything."""

    execute: int | None
    play_steps: int
    align_steps: int
    is_quiet: bool = False


@final
@dataclass
class Curve:
    """Losses by step, as the server told them while it aligned."""

    steps: list[int] = field(default_factory=list)
    losses: dict[str, list[float]] = field(default_factory=dict)

    def add(self, step: int, losses: dict[str, float]) -> None:
        """Add one point; a loss that comes late starts late."""
        self.steps.append(step)
        for name, value in losses.items():
            self.losses.setdefault(name.rpartition("/")[2], []).append(float(value))


@final
@dataclass(frozen=True)
class Story:
    """What happened to one embodiment."""

    embodiment: Embodiment
    before: list[Rollout]
    after: list[Rollout]
    play_s: float
    align_s: float
    session: AlignSession
    snapshot: SnapshotInfo
    curve: Curve


def tell(
    url: str, embodiment: Embodiment, starts: Sequence[int], plan: Plan, *, image_size: int = 96
) -> Story:
    """Go through everything with one embodiment, over HTTP and websockets alone.

    If the gates reject what came out, the base W goes on to serve and is what is measured again.

    Args:
        url: The server.
        embodiment: The robot; its name must be new to the server.
        starts: Numbers of the start states, the same before and after.
        plan: How much of everything.
        image_size: Height and width of the robot's images, in pixels.

    Raises:
        AlignmentFailed: The session failed.
    """
    endpoint = Endpoint(url, timeout_s=60.0, retry=_PATIENCE)
    with (
        SimulatedRobot(embodiment, image_size=image_size) as robot,
        OperatorClient(endpoint) as operator,
        RobotClient(endpoint, robot=robot.name) as client,
    ):
        operator.add_robot(robot.spec)
        before = _measured("base W", client, robot, starts, plan, version=0)
        _play(client, robot, embodiment.play_seed, plan)
        session, curve, align_s = _align(operator, robot, plan)
        version = operator.w.list(robot=robot.name).active
        expected = session.candidate if session.state == "succeeded" else 0
        if version != expected:
            raise AlignmentFailed(f"W version {expected} should serve, but {version} does")
        after = _measured("aligned W", client, robot, starts, plan, version=version)
        return Story(
            embodiment=embodiment,
            before=before,
            after=after,
            play_s=plan.play_steps * robot.period_s,
            align_s=align_s,
            session=session,
            snapshot=operator.w.get(version, robot=robot.name),
            curve=curve,
        )


def _measured(
    what: str,
    client: RobotClient,
    robot: SimulatedRobot,
    starts: Sequence[int],
    plan: Plan,
    *,
    version: int,
) -> list[Rollout]:
    done = successes = 0
    with tqdm(
        total=len(starts), desc=f"{what:>10}", unit="episode", leave=False, disable=plan.is_quiet
    ) as bar:

        def ended(rollout: Rollout) -> None:
            nonlocal done, successes
            done, successes = done + 1, successes + rollout.is_success
            bar.set_postfix_str(f"success {successes}/{done}", refresh=False)
            bar.update()

        return measure(client, robot, starts, execute=plan.execute, version=version, ended=ended)


def _play(client: RobotClient, robot: SimulatedRobot, seed: int, plan: Plan) -> None:
    """Play in simulated time: as fast as the simulation goes, stamped at the robot's own rate."""
    steps = robot.play(plan.play_steps, seed=seed)
    with client.play(meta={"by": "demo"}) as recorder:
        for i, (observation, action) in enumerate(
            tqdm(
                steps,
                total=plan.play_steps,
                desc=f"{'play':>10}",
                unit="step",
                leave=False,
                disable=plan.is_quiet,
            )
        ):
            t_ns = round(i * robot.period_s * _NANOSECONDS)
            recorder.step(observation, action, t_ns=t_ns)


def _align(
    operator: OperatorClient, robot: SimulatedRobot, plan: Plan
) -> tuple[AlignSession, Curve, float]:
    """Align on the play just recorded; the seconds are from the request to the end of it all."""
    request = AlignRequest(
        robot=robot.name, budget=Budget(steps=plan.align_steps, seconds=None), note="demo"
    )
    curve = Curve()
    begun_s = time.monotonic()
    session = operator.align.start(request)
    with tqdm(
        total=plan.align_steps,
        desc=f"{'align':>10}",
        unit="step",
        leave=False,
        disable=plan.is_quiet,
    ) as bar:
        for event in operator.align.watch(session.id):
            _note(event, curve, bar)
    align_s = time.monotonic() - begun_s
    ended = operator.align.get(session.id)
    if ended.state not in {"succeeded", "rejected"}:
        raise AlignmentFailed(f"alignment of {ended.robot} {ended.state}: {ended.error}")
    return ended, curve, align_s


def _note(event: AlignEvent, curve: Curve, bar: tqdm[None]) -> None:
    if event.event != "progress":
        return
    step = int(event.data.get("step", 0))
    losses = event.data.get("losses") or {}
    if losses:
        curve.add(step, losses)
    bar.update(step - bar.n)
