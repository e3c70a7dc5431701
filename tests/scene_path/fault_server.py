"""An HTTP server that serves one file well or badly, and remembers what it was asked."""

from __future__ import annotations

import http.server
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

Answer = Callable[["Request"], None]


@dataclass(slots=True)
class Request:
    """One GET; `number` counts them from 1."""

    number: int
    handler: http.server.BaseHTTPRequestHandler
    body: bytes
    start: int
    end: int

    def send(self, status: int, body: bytes = b"", announced: int | None = None, **headers: str) -> None:
        """Status, headers and body; `announced` bytes where that is a lie, after which the connection closes."""
        self.handler.send_response(status)
        for name, value in headers.items():
            self.handler.send_header(name.replace("_", "-"), value)
        self.handler.send_header("content-length", str(len(body) if announced is None else announced))
        self.handler.end_headers()
        self.handler.wfile.write(body)
        if announced is not None and announced != len(body):
            self.handler.close_connection = True

    def send_range(self, body: bytes | None = None, announced: int | None = None) -> None:
        """What was asked for, whole or a range, or another body in its place."""
        content = self.body[self.start : self.end] if body is None else body
        if self.handler.headers.get("range"):
            self.send(206, content, announced, content_range=f"bytes {self.start}-{self.end - 1}/{len(self.body)}")
        else:
            self.send(200, content, announced)

    def trickle(self, bytes_at_once: int, pause_s: float) -> None:
        self.handler.send_response(200)
        self.handler.send_header("content-length", str(len(self.body)))
        self.handler.end_headers()
        for at in range(0, len(self.body), bytes_at_once):
            self.handler.wfile.write(self.body[at : at + bytes_at_once])
            time.sleep(pause_s)


@dataclass(slots=True)
class FaultServer:
    """`answer` may be changed at any time; HEAD tells the size `head_bytes`, or where to go."""

    url: str
    body: bytes
    answer: Answer
    head_bytes: int
    head_redirect: str = ""
    asked: list[dict[str, str]] = field(default_factory=list)


def well(request: Request) -> None:
    request.send_range()


@contextmanager
def fault_server(body: bytes, answer: Answer = well, host: str = "127.0.0.1") -> Iterator[FaultServer]:
    """Serve `body` under every path."""

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            pass

        def do_HEAD(self) -> None:
            self.send_response(307 if state.head_redirect else 200)
            if state.head_redirect:
                self.send_header("location", state.head_redirect)
            self.send_header("content-length", str(state.head_bytes))
            self.end_headers()

        def do_GET(self) -> None:
            state.asked.append({name.lower(): value for name, value in self.headers.items()})
            found = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("range", ""))
            start, end = (int(found[1]), int(found[2]) + 1) if found else (0, len(state.body))
            try:
                state.answer(Request(len(state.asked), self, state.body, start, end))
            except (BrokenPipeError, ConnectionResetError):
                self.close_connection = True

    server = http.server.ThreadingHTTPServer((host, 0), Handler)
    server.daemon_threads = True
    state = FaultServer(f"http://{host}:{server.server_port}/v1/scene.ply", body, answer, len(body))
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield state
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
