"""A real HTTP server whose pages a test sets: gateway, exporter or Prometheus at the wire."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Wire:
    """`pages` maps a path to its body, `answers` to what makes one of the query; `status` and `drip_s` break it."""

    def __init__(self) -> None:
        self.pages: dict[str, str] = {}
        self.answers: dict[str, Callable[[str], str]] = {}
        self.status = 200
        self.drip_s = 0.0
        self.asked: list[str] = []
        self.url = ""


@contextmanager
def serving() -> Iterator[Wire]:
    wire = Wire()

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            wire.asked.append(self.path)
            path, _, query = self.path.partition("?")
            body = (wire.answers[path](query) if path in wire.answers else wire.pages.get(path, "")).encode()
            self.send_response(wire.status)
            self.send_header("Content-Type", "text/plain; version=0.0.4")
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Retry-After", "3600")
            self.end_headers()
            for part in [body[i : i + 20] for i in range(0, len(body), 20)] if wire.drip_s else [body]:
                try:
                    self.wfile.write(part)
                    self.wfile.flush()
                except OSError:
                    return
                time.sleep(wire.drip_s)

        def log_message(self, format: str, *args: object) -> None:
            del format, args

    server = ThreadingHTTPServer(("127.0.0.1", 0), Answer)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    wire.url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield wire
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
