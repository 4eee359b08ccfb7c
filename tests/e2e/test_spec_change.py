"""A real server that is started again after the spec of its robot was edited, and edited back."""

from __future__ import annotations

import subprocess
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from client import Endpoint, OperatorClient, RobotClient, ServerProblem
from client.cli import main
from selfalign.align.snapshot import SnapshotMeta, encode_snapshot
from selfalign.data.w_spec import w_spec_sha256
from selfalign.model.checkpoint import make_dummy_policy
from server.registry import Registry
from tests.fakes.running import arm_spec, observation

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from selfalign.data.spec import RobotSpec
    from selfalign.model.policy import Policy

OLD = arm_spec()
NEW = arm_spec(action=[OLD.action[0].model_dump() | {"high": 2.0}, OLD.action[1].model_dump()])


@contextmanager
def server(model: Path, root: Path, spec: RobotSpec) -> Iterator[Endpoint]:
    """A server process with its data in `root`, until the block is left; its log is `root/log`."""
    path = root / "arm.yaml"
    path.write_text(spec.to_yaml())
    command = [
        sys.executable, "-m", "server", "--port", "0", "--model", str(model),
        "--spec", str(path), "--data-dir", str(root / "data"), "--align-mode", "inproc",
    ]  # fmt: skip
    with (
        (root / "log").open("w") as log,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True) as process,
    ):
        assert process.stdout is not None
        try:
            greeting = process.stdout.readline()
            if "listens on http://" not in greeting:
                pytest.fail(f"exit status {process.wait(60)}: {(root / 'log').read_text()}")
            yield Endpoint(greeting.split()[-1], timeout_s=60)
            process.terminate()
            process.wait(60)
        finally:
            process.kill()


def serve_aligned(root: Path, policy: Policy, spec: RobotSpec) -> str:
    """Make version 1 of the lineage in `root`, aligned for `spec`, the active one; its sha256."""
    registry = Registry(root / "data" / "w", policy.base_w(), policy.base_sha256)
    registry.add_robot(spec)
    meta = SnapshotMeta(
        version=1,
        parent=0,
        robot=spec.name,
        base_sha256=policy.base_sha256,
        session=None,
        created_at="2026-11-24T06:00:00Z",
        steps=5,
        play_steps=100,
        spec_sha256=w_spec_sha256(spec),
    )
    data = encode_snapshot(policy.base_w().map(lambda tensor: tensor * 2), meta)
    registry.add_candidate(spec.name, data)
    return registry.activate(spec.name, 1).sha256


def test_the_base_serves_while_the_spec_is_another_one(
    dummy_model_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    aligned = serve_aligned(tmp_path, make_dummy_policy(0), OLD)
    seen = observation()

    with server(dummy_model_dir, tmp_path, NEW) as endpoint:
        with RobotClient(endpoint) as robot:
            assert robot.act(seen, seed=1).w_version == 0
            with pytest.raises(ServerProblem) as caught:
                robot.act(seen, seed=1, w_version=1)
        assert caught.value.code == "wrong-spec"
        with OperatorClient(endpoint) as operator, pytest.raises(ServerProblem) as caught:
            operator.w.activate(1)
        assert caught.value.code == "wrong-spec"
        for command in ("status", "w list"):
            assert main([*command.split(), "--url", endpoint.url]) == 0
            assert "aligned for another spec" in capsys.readouterr().out
    assert "the base W serves: version 1 of robot 'arm'" in (tmp_path / "log").read_text()

    with server(dummy_model_dir, tmp_path, OLD) as endpoint, RobotClient(endpoint) as robot:
        again = robot.act(seen, seed=1)
        base = robot.act(seen, seed=1, w_version=0)
    assert (again.w_version, again.w_sha256) == (1, aligned)
    assert again.actions.tolist() != base.actions.tolist()
