"""The package without MuJoCo, and at the end of a process."""

import subprocess
import sys
from pathlib import Path

import pytest

import selfalign

ROOT = Path(selfalign.__file__).parents[1]


def run(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=60,
        check=False,
    )


def test_missing_mujoco_says_how_to_install_it() -> None:
    result = run("import sys; sys.modules['mujoco'] = None; import selfalign.sim")
    assert result.returncode != 0
    assert "SimulationUnavailable" in result.stderr
    assert 'pip install "selfalign[sim]"' in result.stderr


def test_process_ends_silently_even_without_close() -> None:
    result = run(
        "from selfalign.sim.env import SimEnv\n"
        "from selfalign.sim.robots import make_arm\n"
        "env = SimEnv(make_arm('procedural-1'), image_size=32)\n"
        "print(env.observe().images['front'].shape)\n"
    )
    if "cannot render off screen" in result.stderr:
        pytest.skip("no off-screen OpenGL")
    assert result.stdout.strip() == "(32, 32, 3)"
    assert result.stderr == ""
