"""What the chart makes for KEDA's port: the scaler shows and asks for it, and nobody else comes in."""

from __future__ import annotations

import base64
from pathlib import Path

import grpc
from prometheus_client import CollectorRegistry

from autoscaler.external_scaler import ExternalScalerServer
from kube.tls import TlsFiles
from tests.deploy.conftest import NAMESPACE, RELEASE, Helm
from tests.kubernetes_autoscaler.test_external_scaler import only_known_come_in


def test_keda_comes_in_with_its_secret_and_a_stranger_does_not(helm: Helm, tmp_path: Path) -> None:
    items = helm.render("", "--set", "scaling.mode=keda")
    secrets = {item["metadata"]["name"]: item["data"] for item in items if item["kind"] == "Secret"}
    shown = secrets[f"{RELEASE}-splatfleet-autoscaler-tls"]
    for name, text in shown.items():
        (tmp_path / name).write_bytes(base64.b64decode(text))
    files = TlsFiles(tmp_path / "tls.crt", tmp_path / "tls.key", tmp_path / "ca.crt")
    server = ExternalScalerServer(("127.0.0.1", 0), 30.0, CollectorRegistry(), files)
    of_keda = {name: base64.b64decode(text) for name, text in secrets[f"{RELEASE}-splatfleet-keda-tls"].items()}
    known = grpc.ssl_channel_credentials(of_keda["ca.crt"], of_keda["tls.key"], of_keda["tls.crt"])
    stranger = grpc.ssl_channel_credentials(of_keda["ca.crt"])
    host = f"{RELEASE}-splatfleet-autoscaler.{NAMESPACE}.svc"  # as the trigger calls it
    only_known_come_in(server, known, stranger, host)
