"""The real openpi-client against a real port. Slow: it installs the client (it needs numpy < 2)."""

from __future__ import annotations

import subprocess
import venv
from pathlib import Path

import pytest

from tests.fakes.listening import listening
from tests.fakes.running import make_runtime

DRIVE = Path(__file__).parent / "openpi" / "drive.py"
PACKAGES = ("openpi-client==0.1.2", "typing_extensions")


@pytest.fixture(scope="module")
def client_python(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The interpreter of an environment that holds openpi-client."""
    root = tmp_path_factory.mktemp("openpi")
    venv.create(root, with_pip=True)
    python = str(root / "bin" / "python")
    subprocess.run([python, "-m", "pip", "install", "-q", *PACKAGES], check=True, timeout=600)
    return python


@pytest.mark.slow
def test_an_unmodified_openpi_client_is_served(client_python: str, tmp_path: Path) -> None:
    with listening(make_runtime(tmp_path)) as address:
        host, _, port = address.partition(":")
        done = subprocess.run(
            [client_python, str(DRIVE), host, port],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    assert done.returncode == 0, done.stderr
    assert "content" in done.stdout
