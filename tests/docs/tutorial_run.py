"""A reader who goes through the tutorial: folder, terminals, and a server on a free port."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Self, final

if TYPE_CHECKING:
    from tests.docs.blocks import Block

ADDRESS = "127.0.0.1:8000"
_START_LIMIT_S = 300.0
_STOP_LIMIT_S = 60.0
_BLOCK_LIMIT_S = 240.0
# The tutorial's commands name no address; this one adds that of the test's server, and the patience
# that a busy machine needs.
_CLIENT = """#!/bin/sh
exec "{python}" -m client.cli "$@" --url "http://{address}" --timeout 120
"""


@final
class Reader:
    """Saves the files and runs the commands of the tutorial in one folder. A context manager."""

    def __init__(self, folder: Path, root: Path) -> None:
        self.folder = folder / "my-arm"
        self.folder.mkdir()
        self._bin = folder / "bin"
        self._bin.mkdir()
        self._log = folder / "server.log"
        self._root = root
        self._address = ADDRESS
        self._server: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop_server()

    def save(self, block: Block) -> None:
        """Write a file as the text shows it, but for the address of the server."""
        (self.folder / block.name).write_text(self._here(block.text))

    def run(self, block: Block) -> str:
        """Run a block of commands in one shell; what it prints on standard output."""
        done = subprocess.run(
            ["bash", "-e", "-o", "pipefail", "-c", self._here(block.text)],
            cwd=self.folder,
            env=self._environment(),
            capture_output=True,
            text=True,
            timeout=_BLOCK_LIMIT_S,
            check=False,
        )
        assert done.returncode == 0, f"line {block.line}: {done.stdout}\n{done.stderr}"
        return self._there(done.stdout)

    def start_server(self, block: Block) -> str:
        """Press Ctrl-C in terminal 1 if something runs there; then start the server. Its words."""
        self.stop_server()
        with self._log.open("wb") as log:
            self._server = subprocess.Popen(
                ["bash", "-c", f"exec {block.text.splitlines()[1]}"],
                cwd=self.folder,
                env=self._environment(),
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        end_s = time.monotonic() + _START_LIMIT_S
        while not (found := re.search(r"docs   http://(\S+)/docs", self._log.read_text())):
            assert self._server.poll() is None, f"no server: {self._log.read_text()}"
            assert time.monotonic() < end_s, f"no server in time: {self._log.read_text()}"
            time.sleep(0.05)
        self._address = found.group(1)
        self._write_client()
        return self._there(self._log.read_text())

    def stop_server(self) -> None:
        """Ctrl-C, as the terminal sends it: to every process of the server."""
        server, self._server = self._server, None
        if server is None:
            return
        os.killpg(server.pid, signal.SIGINT)
        try:
            code = server.wait(_STOP_LIMIT_S)
        finally:
            if server.poll() is None:
                os.killpg(server.pid, signal.SIGKILL)
                server.wait()
        assert code == 0, f"the server ended with {code}: {self._log.read_text()}"

    def _environment(self) -> dict[str, str]:
        path = os.pathsep.join(
            [str(self._bin), str(Path(sys.executable).parent), os.environ["PATH"]]
        )
        return {
            **os.environ,
            "PATH": path,
            # openpi-client stands there, too: the real one needs an environment of its own.
            "PYTHONPATH": os.pathsep.join([str(self._root), str(self._root / "tests/docs/openpi")]),
            "SELFALIGN_PORT": "0",
            # One process less to load torch; tests/e2e aligns in a process of its own.
            "SELFALIGN_ALIGN_MODE": "inproc",
            "SELFALIGN_PRESTART": "false",
            "SELFALIGN_MIN_FREE_BYTES": "0",
        }

    def _write_client(self) -> None:
        script = self._bin / "selfalign-client"
        script.write_text(_CLIENT.format(python=sys.executable, address=self._address))
        script.chmod(0o755)

    def _here(self, text: str) -> str:
        port = self._address.rpartition(":")[2]
        return text.replace(ADDRESS, self._address).replace("port=8000", f"port={port}")

    def _there(self, output: str) -> str:
        return output.replace(self._address, ADDRESS)
