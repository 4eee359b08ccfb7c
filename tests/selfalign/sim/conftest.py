"""Fixtures of the simulation; without MuJoCo its tests are not collected."""

import importlib.util
from collections.abc import Iterator

import pytest

if importlib.util.find_spec("mujoco") is None:
    collect_ignore_glob = ["test_*.py"]
else:
    from selfalign.sim.env import SimEnv
    from tests.selfalign.sim.environments import ARMS, close_environments, open_environment

    @pytest.fixture(scope="session", autouse=True)
    def _close_environments() -> Iterator[None]:
        yield
        close_environments()

    @pytest.fixture
    def panda() -> SimEnv:
        return open_environment("panda")

    @pytest.fixture(params=ARMS)
    def env(request: pytest.FixtureRequest) -> SimEnv:
        return open_environment(request.param)
