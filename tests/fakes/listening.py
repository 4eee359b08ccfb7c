"""A server on a real port, in a thread of the test's process."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

from server.app import create_app
from server.listen import DrainServer, bind, uvicorn_config

if TYPE_CHECKING:
    from collections.abc import Iterator

    from server.runtime import Runtime

WAIT_S = 60


@contextmanager
def listening(runtime: Runtime) -> Iterator[str]:
    """Serve `runtime` as `python -m server` does, on a free port of 127.0.0.1.

    Yields:
        The address, as `127.0.0.1:port`.
    """
    app = create_app(runtime.settings, runtime)
    listener = bind("127.0.0.1", 0)
    server = DrainServer(uvicorn_config(app, runtime.settings), app, lambda: None)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    try:
        yield f"127.0.0.1:{listener.getsockname()[1]}"
    finally:
        app.state.drain.begin()
        server.should_exit = True
        thread.join(WAIT_S)
        listener.close()
        assert not thread.is_alive(), "the server did not stop"
