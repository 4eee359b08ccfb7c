"""The client runs on a robot's controller: importing it must not bring the server's weight."""

import subprocess
import sys

HEAVY = ("torch", "transformers", "fastapi", "zarr", "selfalign", "matplotlib", "mujoco", "yaml")


def test_importing_the_client_brings_nothing_heavy() -> None:
    code = f"import client, client.cli, sys; print([m for m in {HEAVY!r} if m in sys.modules])"
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True
    )
    assert found.stdout.strip() == "[]"
