"""External metrics for the HorizontalPodAutoscaler out of Prometheus: the smallest API server that its controller asks.

It serves loopback alone and every caller there: what it says is no secret. In a cluster prometheus-adapter does this.
"""

from __future__ import annotations

import json
import ssl
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx2

from fleet import metrics
from local_fleet.control_plane.plane import ControlPlane

METRIC = "requests-per-second"
WINDOW_S = 5.0
GROUP = "external.metrics.k8s.io"
VERSION = f"{GROUP}/v1beta1"
NAME = "external-metrics"


def demand_per_s(prometheus_url: str, pool: str) -> float | None:
    """The pool's requests a second over the last moments; None where Prometheus has none."""
    query = f'sum(rate({metrics.GATEWAY_REQUESTS.name}{{pool="{pool}"}}[{WINDOW_S:g}s]))'
    try:
        answer = httpx2.get(f"{prometheus_url}/api/v1/query", params={"query": query}, timeout=1.0, trust_env=False)
        rows = answer.json()["data"]["result"]
        return float(rows[0]["value"][1]) if rows else None
    except (httpx2.HTTPError, ValueError, KeyError):
        return None


class MetricsAdapter:
    """Serves one metric of one pool from `start` to `stop`, registered as the API's external metrics."""

    def __init__(self, plane: ControlPlane, read: Callable[[], float | None]) -> None:
        self._plane = plane
        adapter = self

        class Answers(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            wbufsize = -1  # head and body in one segment
            disable_nagle_algorithm = True

            def log_message(self, *_: Any) -> None:
                """Silent."""

            def do_GET(self) -> None:
                status, document = adapter._answer(self.path.partition("?")[0].rstrip("/"), read)
                body = json.dumps(document).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Answers)
        self._server.daemon_threads = True
        pair = plane.access.authority.issue(NAME, hosts=("localhost", "127.0.0.1"))
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(pair.certificate, pair.key)
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self._thread = threading.Thread(target=self._server.serve_forever, name=NAME, daemon=True)

    def start(self, namespace: str) -> MetricsAdapter:
        """Serve, and tell the API server; HPAs may ask from then on."""
        self._thread.start()
        port = self._server.server_port
        rbac, role = "rbac.authorization.k8s.io", "external-metrics-reader"
        reference = {"apiGroup": rbac, "kind": "ClusterRole", "name": role}
        account = {"kind": "ServiceAccount", "name": "horizontal-pod-autoscaler", "namespace": "kube-system"}
        rule = {"apiGroups": [GROUP], "resources": ["*"], "verbs": ["get", "list"]}
        self._plane.apply(
            {
                "apiVersion": "v1",
                "kind": "Service",
                "metadata": {"name": NAME, "namespace": namespace},
                "spec": {"type": "ExternalName", "externalName": "localhost", "ports": [{"port": port}]},
            },
            {
                "apiVersion": "apiregistration.k8s.io/v1",
                "kind": "APIService",
                "metadata": {"name": f"v1beta1.{GROUP}"},
                "spec": {
                    "group": GROUP,
                    "version": "v1beta1",
                    "groupPriorityMinimum": 100,
                    "versionPriority": 100,
                    "insecureSkipTLSVerify": True,  # the Service has no name that the certificate could be for
                    "service": {"name": NAME, "namespace": namespace, "port": port},
                },
            },
            {"apiVersion": f"{rbac}/v1", "kind": "ClusterRole", "metadata": {"name": role}, "rules": [rule]},
            {
                "apiVersion": f"{rbac}/v1",
                "kind": "ClusterRoleBinding",
                "metadata": {"name": role},
                "roleRef": reference,
                "subjects": [account],
            },
        )
        return self

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(5.0)

    def _answer(self, path: str, read: Callable[[], float | None]) -> tuple[int, dict[str, Any]]:
        if path == f"/apis/{VERSION}":
            resource = {"name": METRIC, "namespaced": True, "kind": "ExternalMetricValueList", "verbs": ["get"]}
            return 200, {"kind": "APIResourceList", "groupVersion": VERSION, "resources": [resource]}
        if not path.endswith(f"/{METRIC}"):
            return 404, {"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "NotFound", "code": 404}
        value = read()
        if value is None:  # no data is no zero: the HPA then holds
            return 503, {"kind": "Status", "apiVersion": "v1", "status": "Failure", "message": "no data", "code": 503}
        item = {
            "metricName": METRIC,
            "metricLabels": {},
            "timestamp": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "value": f"{round(1000 * value)}m",
        }
        return 200, {"kind": "ExternalMetricValueList", "apiVersion": VERSION, "metadata": {}, "items": [item]}
