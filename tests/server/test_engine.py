from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from selfalign.data.observation import Observation, ObservationError
from selfalign.model.weights import FastWeights
from server.bundle import Bundle
from server.engine import ActCall, Engine, blank_observation
from server.inference_thread import NotReady, Overloaded
from server.metrics import Metrics
from server.registry_errors import UnknownRobot, WNotResident
from server.safety import NonFiniteAction
from tests.fakes.robot_policy import FakeRobotPolicy
from tests.fakes.running import arm_spec
from tests.fakes.weights import make_w

if TYPE_CHECKING:
    from collections.abc import Iterator

WAIT_S = 60


class FakeRegistry:
    """Hands out bundles and counts how often it was asked."""

    def __init__(self) -> None:
        self.bundle = _bundle(0)
        self.resident = {0: self.bundle, 7: _bundle(7)}
        self.reads = 0

    def active(self, robot: str) -> Bundle:
        self.reads += 1
        if robot != "arm":
            raise UnknownRobot(robot, ["arm"])
        return self.bundle

    def get(self, robot: str, version: int) -> Bundle:
        if version not in self.resident:
            raise WNotResident(robot, version, sorted(self.resident))
        return self.resident[version]


def _bundle(version: int) -> Bundle:
    w: FastWeights = make_w(version / 100)
    return Bundle("arm", version, f"sha-{version}", "base", w)


@pytest.fixture
def registry() -> FakeRegistry:
    return FakeRegistry()


@pytest.fixture
def policy() -> FakeRobotPolicy:
    return FakeRobotPolicy(None, arm_spec())


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


@pytest.fixture
def engine(registry: FakeRegistry, policy: FakeRobotPolicy, metrics: Metrics) -> Iterator[Engine]:
    engine = Engine(registry, metrics, queue_depth=2)  # type: ignore[arg-type]
    engine.add_robot(policy)
    yield engine
    if policy.hold is not None:
        policy.hold.set()
    engine.close()


def call(**changes: Any) -> ActCall:
    fields = {"robot": "arm", "observation": blank_observation(arm_spec()), **changes}
    return ActCall(**fields)


def test_an_answer_names_the_w_that_made_it(engine: Engine, registry: FakeRegistry) -> None:
    registry.bundle = _bundle(3)

    result = asyncio.run(engine.act(call()))

    assert (result.version, result.sha256) == (3, "sha-3")
    assert result.actions.tolist() == np.full((4, 2), np.float32(0.03)).tolist()
    assert result.clamped_dims == []


def test_the_active_w_is_read_once_for_a_chunk(engine: Engine, registry: FakeRegistry) -> None:
    asyncio.run(engine.act(call()))

    assert registry.reads == 1


def test_a_pinned_version_answers_instead_of_the_active_one(engine: Engine) -> None:
    assert asyncio.run(engine.act(call(pin=7))).version == 7
    with pytest.raises(WNotResident):
        asyncio.run(engine.act(call(pin=8)))


def test_everything_that_computes_runs_in_the_inference_thread(
    engine: Engine, policy: FakeRobotPolicy
) -> None:
    readers: list[str] = []

    def read() -> ActCall:
        readers.append(threading.current_thread().name)
        return call()

    asyncio.run(engine.act(read))

    assert readers == ["inference"]
    assert policy.threads == {"inference"}


def test_no_chunk_mixes_versions_while_w_is_swapped_hard(
    engine: Engine, registry: FakeRegistry
) -> None:
    stop = threading.Event()

    def swap() -> None:
        version = 0
        while not stop.is_set():
            version = (version + 1) % 90
            registry.bundle = _bundle(version)

    async def ask() -> list[Any]:
        return [await engine.act(call()) for _ in range(200)]

    swapper = threading.Thread(target=swap)
    swapper.start()
    try:
        results = asyncio.run(ask())
    finally:
        stop.set()
        swapper.join(WAIT_S)

    for result in results:
        made_by = _bundle(result.version)
        assert result.sha256 == made_by.sha256
        expected = min(float(made_by.w.W1.flatten()[0]), 0.5)
        assert np.allclose(result.actions[:, 1], expected)
        assert len(set(result.actions[:, 0].tolist())) == 1


def test_a_full_queue_refuses_at_once_and_recovers(
    engine: Engine, policy: FakeRobotPolicy, metrics: Metrics
) -> None:
    policy.hold = threading.Event()

    async def scenario() -> None:
        waiting = [asyncio.create_task(engine.act(call())) for _ in range(3)]
        await asyncio.sleep(0)
        with pytest.raises(Overloaded, match="2 observations are waiting") as refused:
            await engine.act(call())
        assert refused.value.headers == {"Retry-After": "1"}
        assert engine.in_flight == 3
        policy.hold.set()
        await asyncio.gather(*waiting)
        await engine.act(call())

    asyncio.run(scenario())

    assert engine.in_flight == 0
    assert metrics.registry.get_sample_value("selfalign_act_queue_dropped_total") == 1


def test_a_cancelled_request_holds_its_place_until_its_work_ends(
    engine: Engine, policy: FakeRobotPolicy
) -> None:
    policy.hold = threading.Event()

    async def scenario() -> None:
        task = asyncio.create_task(engine.act(call()))
        assert await asyncio.to_thread(policy.asked.wait, WAIT_S)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert engine.in_flight == 1
        policy.hold.set()
        await engine.act(call())

    asyncio.run(scenario())

    assert engine.in_flight == 0


def test_a_failure_leaves_the_engine_answering(engine: Engine, policy: FakeRobotPolicy) -> None:
    policy.error = RuntimeError("boom")
    with pytest.raises(RuntimeError, match="boom"):
        asyncio.run(engine.act(call()))

    policy.error = None
    assert asyncio.run(engine.act(call())).version == 0
    assert engine.in_flight == 0


def test_a_chunk_that_is_not_finite_is_counted(
    engine: Engine, policy: FakeRobotPolicy, metrics: Metrics
) -> None:
    policy.chunk = np.array([[0.0, np.nan]], np.float32)

    with pytest.raises(NonFiniteAction):
        asyncio.run(engine.act(call()))

    sample = {"kind": "non_finite"}
    assert metrics.registry.get_sample_value("selfalign_safety_events_total", sample) == 1


def test_a_limited_and_a_slowed_chunk_are_counted(registry: FakeRegistry, metrics: Metrics) -> None:
    policy = FakeRobotPolicy(None, arm_spec(max_step=(0.25, None)))
    policy.chunk = np.array([[0.0, 9.0], [1.0, 0.0]], np.float32)
    engine = Engine(registry, metrics, queue_depth=1)  # type: ignore[arg-type]
    engine.add_robot(policy)

    result = asyncio.run(engine.act(call()))
    engine.close()

    assert result.clamped_dims == ["grip", "dx"]
    for kind in ("limited", "slowed"):
        value = metrics.registry.get_sample_value("selfalign_safety_events_total", {"kind": kind})
        assert value == 1


def test_an_observation_that_does_not_fit_is_refused_before_the_policy(
    engine: Engine, policy: FakeRobotPolicy
) -> None:
    good = blank_observation(arm_spec())
    bad = Observation(images=good.images, state=good.state * np.float32(np.nan))

    with pytest.raises(ObservationError, match="state"):
        asyncio.run(engine.act(call(observation=bad)))

    assert policy.seen == []


def test_an_unknown_robot_is_refused(engine: Engine) -> None:
    with pytest.raises(UnknownRobot, match="'leg' is not known"):
        asyncio.run(engine.act(call(robot="leg")))
    with pytest.raises(UnknownRobot):
        engine.policy("leg")


def test_a_closed_engine_says_so(engine: Engine) -> None:
    engine.close()

    with pytest.raises(NotReady, match="stopping"):
        asyncio.run(engine.act(call()))

    assert engine.in_flight == 0


def test_the_inference_thread_is_prepared_before_its_first_answer(registry: FakeRegistry) -> None:
    names: list[str] = []
    engine = Engine(
        registry,  # type: ignore[arg-type]
        Metrics(),
        queue_depth=1,
        prepare_thread=lambda: names.append(threading.current_thread().name),
    )
    engine.add_robot(FakeRobotPolicy(None, arm_spec()))

    asyncio.run(engine.warm_up())
    engine.close()

    assert names == ["inference"]
