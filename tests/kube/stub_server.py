"""An API server at the wire, for faults only: what it holds is real HTTP, what goes wrong is told to it."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit


def pod(name: str, version: int, **fields: Any) -> dict[str, Any]:
    metadata = {"name": name, "namespace": "default", "uid": f"uid-{name}", "resourceVersion": str(version)}
    return {"metadata": metadata, "spec": {}, "status": {"phase": "Pending"}, **fields}


class StubServer:
    """Pods in one collection, an open watch per client, and faults that each hit one request.

    `faults` are taken in order by requests whose path and query contain the key: ("watch", 429, headers, body),
    ("list", "hang").
    """

    def __init__(self) -> None:
        self.pods: dict[str, dict[str, Any]] = {}
        self.version = 10
        self.faults: list[tuple[Any, ...]] = []
        self.requests: list[tuple[float, str, dict[str, str], bytes]] = []  # (when, method and path, headers, body)
        self.events: list[tuple[int, bytes]] = []
        self.changed = threading.Condition()
        self.stopping = False
        self.token = ""
        self.dropping = False  # the next watch that would say something is cut off instead
        stub = self

        class Answers(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            wbufsize = -1
            disable_nagle_algorithm = True

            def log_message(self, *_: Any) -> None:
                pass

            def do_GET(self) -> None:
                stub.answer(self)

            do_PATCH = do_POST = do_PUT = do_DELETE = do_GET

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Answers)
        self.server.daemon_threads = True
        self.address = f"http://127.0.0.1:{self.server.server_port}"
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self.thread.start()

    def stop(self) -> None:
        with self.changed:
            self.stopping = True
            self.changed.notify_all()
        self.server.shutdown()
        self.server.server_close()
        self.thread.join(5)

    def put(self, document: dict[str, Any], event: str = "MODIFIED") -> None:
        """Hold a pod and tell the watchers."""
        with self.changed:
            name = document["metadata"]["name"]
            self.version = max(self.version + 1, int(document["metadata"]["resourceVersion"]))
            document["metadata"]["resourceVersion"] = str(self.version)
            if event == "DELETED":
                self.pods.pop(name, None)
            else:
                self.pods[name] = document
            self.say({"type": event, "object": document})

    def say(self, event: dict[str, Any]) -> None:
        """Any line to the watchers."""
        with self.changed:
            self.version += 1
            self.events.append((self.version, json.dumps(event).encode() + b"\n"))
            self.changed.notify_all()

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        url = urlsplit(request.path)
        query = {key: values[0] for key, values in parse_qs(url.query).items()}
        body = request.rfile.read(int(request.headers.get("Content-Length") or 0))
        what = "watch" if query.get("watch") else "list" if "limit" in query else request.command
        self.requests.append((time.monotonic(), f"{request.command} {request.path}", dict(request.headers), body))
        if self.token and request.headers.get("Authorization") != f"Bearer {self.token}":
            return self.send(request, 401, {"reason": "Unauthorized", "message": "who?"})
        with self.changed:
            fault = next((found for found in self.faults if found[0] == what), None)
            if fault is not None:
                self.faults.remove(fault)
        if fault is not None and not self.fault(request, *fault[1:]):
            return None
        if what == "watch":
            return self.watch(request, int(query["resourceVersion"]), float(query["timeoutSeconds"]))
        if what == "list":
            return self.list(request, int(query["limit"]), int(query.get("continue", 0)))
        return self.send(request, 200, {"metadata": {"name": "x"}, "method": request.command})

    def fault(self, request: BaseHTTPRequestHandler, kind: Any, headers: Any = None, body: Any = None) -> bool:
        """Do what the fault says; True where the request is answered as usual afterwards."""
        if kind == "hang":
            with self.changed:
                self.changed.wait_for(lambda: self.stopping, timeout=headers or 30.0)
            request.close_connection = True
        elif kind == "garbage":
            self.send_raw(request, 200, b"<html>not json</html>", {})
        elif kind == "empty":  # a watch that ends at once
            self.send_raw(request, 200, b"", {})
        elif isinstance(kind, int):
            self.send(request, kind, body or {"reason": "Fault", "message": "told to"}, headers)
        return False

    def list(self, request: BaseHTTPRequestHandler, limit: int, start: int) -> None:
        with self.changed:
            items = [self.pods[name] for name in sorted(self.pods)]
            more = str(start + limit) if start + limit < len(items) else ""
            metadata = {"resourceVersion": str(self.version), "continue": more}
        self.send(request, 200, {"metadata": metadata, "items": items[start : start + limit]})

    def watch(self, request: BaseHTTPRequestHandler, version: int, timeout_s: float) -> None:
        request.send_response(200)
        request.send_header("Transfer-Encoding", "chunked")
        request.end_headers()
        request.wfile.flush()
        sent = sum(1 for at, _ in self.events if at <= version)
        end_s = time.monotonic() + timeout_s
        while not self.stopping and time.monotonic() < end_s:
            with self.changed:
                if not self.stopping and len(self.events) <= sent:
                    self.changed.wait(0.2)
                lines = [line for _, line in self.events[sent:]]
                sent += len(lines)
            if self.dropping:
                self.dropping = False
                request.close_connection = True
                return
            for line in lines:
                request.wfile.write(b"%x\r\n%s\r\n" % (len(line), line))
                request.wfile.flush()
        request.wfile.write(b"0\r\n\r\n")

    def send(self, request: BaseHTTPRequestHandler, status: int, document: Any, headers: Any = None) -> None:
        self.send_raw(request, status, json.dumps(document).encode(), headers or {})

    @staticmethod
    def send_raw(request: BaseHTTPRequestHandler, status: int, body: bytes, headers: dict[str, str]) -> None:
        request.send_response(status)
        for key, value in {"Content-Length": str(len(body)), "Content-Type": "application/json", **headers}.items():
            request.send_header(key, value)
        request.end_headers()
        request.wfile.write(body)


@contextmanager
def stub_server() -> Iterator[StubServer]:
    server = StubServer()
    try:
        yield server
    finally:
        server.stop()


def kubeconfig(path: Path, address: str, token_file: Path | None = None, namespace: str = "") -> Path:
    user = {"tokenFile": str(token_file)} if token_file else {}
    context = {"cluster": "c", "user": "u", **({"namespace": namespace} if namespace else {})}
    document = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "stub",
        "clusters": [{"name": "c", "cluster": {"server": address}}],
        "users": [{"name": "u", "user": user}],
        "contexts": [{"name": "stub", "context": context}],
    }
    path.write_text(json.dumps(document))
    return path
