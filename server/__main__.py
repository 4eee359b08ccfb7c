"""`python -m server`: start the policy server."""

from __future__ import annotations

import argparse
import gc
import logging
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import ValidationError

from selfalign.errors import SelfAlignError
from server.listen import DrainServer, StartError, bind, uvicorn_config
from server.settings import Settings, misspelt
from server.version import package_version

if TYPE_CHECKING:
    import socket

    from server.runtime import Runtime

logger = logging.getLogger("server")

_EXIT_BAD_START = 2
_EPILOG = """\
Every option can also be set as an environment variable, for example SELFALIGN_PORT=8001; those of
--model, --spec and --allowed-host are SELFALIGN_MODEL_DIR, SELFALIGN_SPECS (separated by ":") and
SELFALIGN_ALLOWED_HOSTS (by ","). An option wins over its variable. Variables without an option:
SELFALIGN_QUEUE_DEPTH, SELFALIGN_KEEP_RESIDENT, SELFALIGN_QUOTA_BYTES, SELFALIGN_MIN_FREE_BYTES,
SELFALIGN_SHUTDOWN_GRACE_S, SELFALIGN_PRESTART, SELFALIGN_COMPILE, SELFALIGN_CUDA_GRAPHS,
SELFALIGN_PREFIX_MEMORY_BYTES, SELFALIGN_PREFIX_DISK_BYTES, SELFALIGN_ALIGN_MICRO_BATCH,
SELFALIGN_ALIGN_CHECKPOINTING.

examples:
  python -m server                                  the shipped model and robot, on port 8000
  python -m server --spec my-arm.yaml --port 9000   another robot
  python -m server --model runs/tiny/model --data-dir /var/lib/selfalign
"""


def main(argv: list[str] | None = None) -> int:
    """Run the server until it is told to stop. Returns the exit code."""
    try:
        settings = read_settings(argv)
        listener = bind(settings.host, settings.port)
    except StartError as error:
        return _refuse(error)
    logging.basicConfig(
        level=settings.log_level.upper(), format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    for line in misspelt():
        logger.warning(line)
    # Heavy imports only now, so that a wrong option or a taken port is reported at once.
    from server.app import create_app
    from server.runtime import load_runtime

    try:
        runtime = load_runtime(settings)
    except (SelfAlignError, OSError) as error:
        listener.close()
        return _refuse(error)
    app = create_app(settings, runtime)
    gc.collect()
    gc.freeze()
    words = greeting(runtime, listener)
    server = DrainServer(uvicorn_config(app, settings), app, lambda: print(words, flush=True))
    # uvicorn repeats the signal that ended it; Ctrl-C is no error
    with suppress(KeyboardInterrupt):
        server.run(sockets=[listener])
    return 0 if server.started else 1


def read_settings(argv: list[str] | None = None) -> Settings:
    """Settings from arguments, else from the environment, else their defaults.

    Raises:
        StartError: a setting is not valid.
    """
    given = {
        key: value for key, value in vars(_parser().parse_args(argv)).items() if value is not None
    }
    try:
        return Settings(**given)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        name = ".".join(str(part) for part in first["loc"])
        raise StartError(f"setting {name}: {first['msg']} (got {first['input']!r:.80})") from None


def greeting(runtime: Runtime, listener: socket.socket) -> str:
    """What the server prints when it is ready."""
    host, port = listener.getsockname()[:2]
    shown = "127.0.0.1" if host in ("0.0.0.0", "::") else host  # noqa: S104 - only compared
    url = f"http://[{shown}]:{port}" if ":" in shown else f"http://{shown}:{port}"
    model, robot = runtime.model_info, runtime.default_robot
    bundle = runtime.registry.active(robot)
    others = len(runtime.robots) - 1
    return "\n".join(
        (
            f"selfalign server listens on {url}",
            f"  model  {model['variant']} ({model['flavour']}), "
            f"{model['parameters']:,} parameters, base {model['base_sha256'][:12]}",
            f"  robot  {robot}{f' and {others} more' if others else ''}",
            f"  W      version {bundle.version}{' (base)' if not bundle.version else ''}, "
            f"sha256 {bundle.sha256[:12]}",
            f"  data   {runtime.settings.data_dir.resolve()}",
            f"  docs   {url}/docs",
        )
    )


def _refuse(error: Exception) -> int:
    print(f"selfalign server: {error}", file=sys.stderr)
    return _EXIT_BAD_START


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m server",
        description="A robot policy server that aligns itself to the robot it runs on.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--version", action="version", version=f"selfalign server {package_version()}")
    add("--host", help="address to listen on (default 127.0.0.1)")
    add(
        "--allowed-host",
        dest="allowed_hosts",
        action="append",
        metavar="NAME",
        help="one more name by which clients may call the server, * for any; may be repeated",
    )
    add("--port", help="port to listen on, 0 for a free one (default 8000)")
    add(
        "--model",
        dest="model_dir",
        type=Path,
        metavar="DIR|ID",
        help="model directory or Hugging Face id (default: shipped)",
    )
    add(
        "--spec",
        dest="specs",
        type=Path,
        action="append",
        metavar="FILE",
        help="robot spec, YAML or TOML; may be repeated, the first is the default robot",
    )
    add(
        "--data-dir",
        type=Path,
        metavar="DIR",
        help="play, W and robots are kept here (default data)",
    )
    add(
        "--align-mode", choices=("process", "inproc"), help="where alignment runs (default process)"
    )
    add("--torch-threads", metavar="N", help="threads of one policy evaluation (default 1)")
    add("--device", help="torch device of the policy (default cpu)")
    add(
        "--dtype",
        choices=("stored", "float32", "bfloat16"),
        help="precision of the weights (default stored: as in the file)",
    )
    add("--max-body-bytes", metavar="N", help="largest message accepted (default 33554432)")
    add("--log-level", choices=("debug", "info", "warning", "error"), help="default info")
    return parser


if __name__ == "__main__":
    sys.exit(main())
