"""external.metrics.k8s.io at the wire: a recorded series per metric, one value of it for each question."""

from __future__ import annotations

import json
import ssl
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from local_fleet.control_plane.certificates import Authority
from local_fleet.control_plane.plane import ControlPlane

API = "external.metrics.k8s.io"
ROOT = f"/apis/{API}/v1beta1"


@dataclass
class Question:
    """One reading of a metric: when, what was answered, and the replicas at that moment."""

    at_s: float
    value: float
    replicas: int


@dataclass
class ExternalMetrics:
    """Serves `series` by metric name; `replicas_of` says what a metric's target has when it is asked for."""

    plane: ControlPlane
    folder: Path
    series: Mapping[str, Sequence[float]]
    replicas_of: Callable[[str], int]
    asked: dict[str, list[Question]] = field(default_factory=dict)

    def __enter__(self) -> ExternalMetrics:
        stub = self

        class Answers(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            wbufsize = -1
            disable_nagle_algorithm = True

            def log_message(self, *_: Any) -> None:
                pass

            def do_GET(self) -> None:
                status, document = stub.answer(self.path.partition("?")[0])
                body = json.dumps(document).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

        pair = Authority(self.folder, "metrics-authority").issue("localhost", hosts=["localhost", "127.0.0.1"])
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(pair.certificate, pair.key)
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Answers)
        self._server.daemon_threads = True
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()
        self._register(self._server.server_port)
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def answer(self, path: str) -> tuple[int, dict[str, Any]]:
        if path == ROOT:
            return 200, {
                "kind": "APIResourceList",
                "apiVersion": "v1",
                "groupVersion": f"{API}/v1beta1",
                "resources": [],
            }
        name = path.rpartition("/")[2]
        if name not in self.series or not path.startswith(f"{ROOT}/namespaces/"):
            return 404, {"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": 404}
        asked, series = self.asked.setdefault(name, []), self.series[name]
        value = series[min(len(asked), len(series) - 1)]
        asked.append(Question(time.monotonic(), value, self.replicas_of(name)))
        item = {
            "metricName": name,
            "metricLabels": {},
            "timestamp": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "value": f"{round(value * 1000)}m",
        }
        metadata: dict[str, Any] = {}
        return 200, {
            "kind": "ExternalMetricValueList",
            "apiVersion": f"{API}/v1beta1",
            "metadata": metadata,
            "items": [item],
        }

    def _register(self, port: int) -> None:
        """Loopback may not stand in Endpoints, so the API server is sent to a name."""
        service = {"type": "ExternalName", "externalName": "localhost", "ports": [{"port": port}]}
        self.plane.apply(
            {
                "apiVersion": "v1",
                "kind": "Service",
                "metadata": {"name": "external-metrics", "namespace": "default"},
                "spec": service,
            },
            {
                "apiVersion": "apiregistration.k8s.io/v1",
                "kind": "APIService",
                "metadata": {"name": f"v1beta1.{API}"},
                "spec": {
                    "group": API,
                    "version": "v1beta1",
                    "groupPriorityMinimum": 100,
                    "versionPriority": 100,
                    "insecureSkipTLSVerify": True,
                    "service": {"name": "external-metrics", "namespace": "default", "port": port},
                },
            },
        )
