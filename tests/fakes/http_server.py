"""An HTTP server with prepared answers, on a free port."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Answer:
    """What to send back."""

    body: Any = None
    status: int = 200
    media_type: str = "application/json"
    headers: dict[str, str] = field(default_factory=dict)

    def content(self) -> bytes:
        return self.body if isinstance(self.body, bytes) else json.dumps(self.body).encode()


@dataclass
class Asked:
    """One request that came in."""

    route: str
    query: str
    headers: dict[str, str]
    body: bytes


class FakeHttp:
    """Answers by route, like `"GET /info"`; writes down what was asked.

    A list of answers is used up one by one, its last one stays.
    """

    def __init__(self, answers: dict[str, Answer | list[Answer]]) -> None:
        self.answers = answers
        self.asked: list[Asked] = []
        self.url = ""

    def routes(self) -> list[str]:
        return [item.route for item in self.asked]

    def answer(self, asked: Asked) -> Answer:
        self.asked.append(asked)
        found = self.answers.get(asked.route)
        if found is None:
            body = {"title": "No such resource", "detail": asked.route, "code": "not-found"}
            return Answer(body, status=404, media_type="application/problem+json")
        if isinstance(found, list):
            return found.pop(0) if len(found) > 1 else found[0]
        return found


@contextmanager
def http_server(answers: dict[str, Any]) -> Iterator[FakeHttp]:
    """Serve in a thread until the block is left."""
    fake = FakeHttp(answers)
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(fake.answer))
    fake.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield fake
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def _handler(answer: Callable[[Asked], Answer]) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def _serve(self) -> None:
            path, _, query = self.path.partition("?")
            body = self.rfile.read(int(self.headers.get("content-length") or 0))
            headers = {name.lower(): value for name, value in self.headers.items()}
            given = answer(Asked(f"{self.command} {path}", query, headers, body))
            content = given.content()
            self.send_response(given.status)
            self.send_header("content-type", given.media_type)
            self.send_header("content-length", str(len(content)))
            for name, value in given.headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = _serve  # noqa: N815 - the names that http.server calls

        def log_message(self, *_: object) -> None:
            pass

    return Handler
