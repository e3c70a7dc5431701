"""What stands around an exporter: a store on disk, a server with Triton's text, the exporter as a process."""

from __future__ import annotations

import hashlib
import http.server
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parent.parent.parent
GIB = 1024**3


def write_json(path: Path, content: object) -> None:
    """As every writer does it: whole, then renamed into place."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(json.dumps(content))
    os.replace(temporary, path)


class Store:
    """A scene store on disk, written as the renderer writes it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.set_capacity(10 * GIB)

    def set_capacity(self, capacity_bytes: int) -> None:
        record = {"capacity_bytes": capacity_bytes, "fetch_bytes_per_s": 5e7, "read_bytes_per_s": 0.0}
        write_json(self.root / "store.json", record)

    def put(self, scene: str, size: int = 1000, last_used_s: float = 1.0, digest: str = "") -> Path:
        path = self.root / "scenes" / f"{scene}.json"
        record = {
            "id": scene,
            "digest": digest or hashlib.sha256(scene.encode()).hexdigest(),
            "source_bytes": size,
            "packed_bytes": 0,
            "resident_bytes": size,
            "gaussians": 10,
            "last_used_s": last_used_s,
        }
        write_json(path, record)
        return path

    def evict(self, scene: str) -> None:
        (self.root / "scenes" / f"{scene}.json").unlink()

    def fetch(self, scene: str, done: int, total: int, heartbeat_s: float | None = None) -> None:
        digest = hashlib.sha256(scene.encode()).hexdigest()
        beat_s = time.time() if heartbeat_s is None else heartbeat_s
        record = {"id": scene, "digest": digest, "done_bytes": done, "total_bytes": total, "heartbeat_s": beat_s}
        write_json(self.root / "fetching" / f"{digest}.json", record)


class MetricsServer:
    """A loopback HTTP server that answers /metrics with `text`, as Triton's metrics port does."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.requests = 0
        outer = self

        class Answer(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.requests += 1
                body = outer.text.encode()
                self.send_response(200 if self.path == "/metrics" else 404)
                self.send_header("Content-Type", "text/plain; charset=utf-8")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: Any) -> None:
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answer)
        self.address = f"127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})
        self._thread.start()

    def stop(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


class Exporter:
    """`python -m splatfleet exporter …` on a free port."""

    def __init__(self, flags: list[str], log: Path) -> None:
        self._log = log.open("w")
        self.log = log
        command = [sys.executable, "-m", "splatfleet", "exporter", "--listen", "127.0.0.1:0", *flags]
        self.process = subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=self._log, text=True)
        assert self.process.stdout is not None
        self.line = self.process.stdout.readline()  # printed once it listens; empty if it ended
        assert "http://" in self.line, log.read_text()
        self.url = "http://" + self.line.split("http://")[1].split("/")[0]

    def stop(self) -> int:
        if self.process.poll() is None:
            self.process.terminate()
        try:
            return self.process.wait(30)
        finally:
            self.process.kill()
            assert self.process.stdout is not None
            self.process.stdout.close()
            self._log.close()
