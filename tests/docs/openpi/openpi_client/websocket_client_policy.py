"""What the tutorial uses of openpi's client, on its protocol: metadata first, then one by one.

The real client is held against the server by tests/contract/test_openpi_client.py.
"""

from __future__ import annotations

from typing import Any

from websockets.sync.client import connect

from server.wire.codec import pack, unpack


class WebsocketClientPolicy:
    """Connects at once; `infer` blocks."""

    def __init__(self, host: str, port: int) -> None:
        self._socket = connect(f"ws://{host}:{port}", compression=None, max_size=None)
        self._metadata = unpack(self._socket.recv())

    def infer(self, observation: dict[str, Any]) -> dict[str, Any]:
        """One observation in, one answer out."""
        self._socket.send(pack(observation))
        answer = self._socket.recv()
        if isinstance(answer, str):
            raise RuntimeError(f"Error in inference server:\n{answer}")
        return unpack(answer)
