"""A real S3 server (versitygw) as a process; where there is none, the few verbs that we use, and no signature check."""

from __future__ import annotations

import hashlib
import http.server
import os
import re
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from email.utils import formatdate
from pathlib import Path
from urllib.parse import unquote, urlsplit

import httpx2

ACCESS_KEY, SECRET_KEY = "SPLATACCESSKEYFORTESTS", "splat-secret-key-for-tests-0123456789"
SERVER_ENV = "SPLATFLEET_VERSITYGW"  # path of the server's binary
REPOSITORY = Path(__file__).resolve().parents[1]


@dataclass(frozen=True, slots=True)
class S3Server:
    """Where it listens. `bucket` exists and lies in `folder`."""

    url: str
    bucket: str
    folder: Path
    is_real: bool

    def environment(self) -> dict[str, str]:
        """What a client of it needs, credentials included."""
        return {**self.address(), "AWS_ACCESS_KEY_ID": ACCESS_KEY, "AWS_SECRET_ACCESS_KEY": SECRET_KEY}

    def address(self) -> dict[str, str]:
        return {"AWS_ENDPOINT_URL": self.url, "AWS_REGION": "us-east-1", "AWS_EC2_METADATA_DISABLED": "true"}


def free_port() -> int:
    """A port of the loopback interface that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def binary() -> Path | None:
    """The server: named by the environment, in .tools/, or on the path."""
    named = os.environ.get(SERVER_ENV)
    found = [Path(named)] if named else [REPOSITORY / ".tools" / "versitygw"]
    if which := shutil.which("versitygw"):
        found.append(Path(which))
    return next((path for path in found if path.is_file()), None)


@contextmanager
def s3_server(folder: Path, port: int) -> Iterator[S3Server]:
    """Serve buckets under `folder`."""
    (folder / "scenes").mkdir(parents=True)
    server = binary()
    if server is None:
        with _stub(folder, port) as url:
            yield S3Server(url, "scenes", folder / "scenes", is_real=False)
        return
    environment = {**os.environ, "ROOT_ACCESS_KEY_ID": ACCESS_KEY, "ROOT_SECRET_ACCESS_KEY": SECRET_KEY}
    arguments = [
        str(server),
        "--port",
        f"127.0.0.1:{port}",
        "--quiet",
        "--keep-alive",
        "posix",
        str(folder),
    ]
    with (folder.parent / "versitygw.log").open("wb") as log:
        process = subprocess.Popen(arguments, env=environment, stdout=log, stderr=log)
    url = f"http://127.0.0.1:{port}"
    try:
        for _ in range(200):
            try:
                httpx2.get(url, timeout=1.0)
                break
            except httpx2.HTTPError:
                assert process.poll() is None, (folder.parent / "versitygw.log").read_text()
                time.sleep(0.05)
        yield S3Server(url, "scenes", folder / "scenes", is_real=True)
    finally:
        process.terminate()
        process.wait(10)


class _Stub(http.server.ThreadingHTTPServer):
    folder: Path


class _StubHandler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Stub

    def log_message(self, *_: object) -> None:
        pass

    def _answer(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        if "Content_Length" not in headers:
            self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _allowed(self) -> bool:
        signed = self.headers.get("authorization", "") + unquote(urlsplit(self.path).query)
        if f"Credential={ACCESS_KEY}/" in signed:
            return True
        self._answer(403, b"<Error><Code>AccessDenied</Code></Error>")
        return False

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = self.server.folder / urlsplit(self.path).path.lstrip("/")
        if not self._allowed():
            return
        if not path.is_file():
            self._answer(404)
            return
        body = path.read_bytes()
        known = {"ETag": f'"{hashlib.md5(body).hexdigest()}"', "Last_Modified": formatdate(usegmt=True)}
        if self.command == "HEAD":
            self._answer(200, b"", Content_Length=str(len(body)), **known)
            return
        asked = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("range", ""))
        if asked is None:
            self._answer(200, body, **known)
            return
        start, end = int(asked[1]), min(int(asked[2]), len(body) - 1)
        self._answer(206, body[start : end + 1], Content_Range=f"bytes {start}-{end}/{len(body)}", **known)

    def do_PUT(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        if not self._allowed():
            return
        path = self.server.folder / urlsplit(self.path).path.lstrip("/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(body)
        self._answer(200, ETag=f'"{hashlib.md5(body).hexdigest()}"')


@contextmanager
def _stub(folder: Path, port: int) -> Iterator[str]:
    server = _Stub(("127.0.0.1", port), _StubHandler)
    server.folder = folder
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
