"""Volumes as folders: what the API server says of a pod is written where its containers look for it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import msgspec
import pytest
import yaml

from local_fleet.kubelet.container_plan import PlanError, service_account_volume
from local_fleet.kubelet.emulated_node import EmulatedNode
from local_fleet.kubelet.pod_spec import RunPod
from local_fleet.kubelet.second_scheduler import local_arguments
from local_fleet.kubelet.volumes import lay_volumes

TOKEN_FOLDER = "/var/run/secrets/kubernetes.io/serviceaccount"


class Said:
    """What an API server would answer."""

    def __init__(self) -> None:
        self.tokens = 0

    def keys(self, kind: str, namespace: str, name: str) -> Mapping[str, str] | None:
        return {"ca.crt": "PEM"} if (kind, namespace, name) == ("configmaps", "team", "kube-root-ca.crt") else None

    def token(self, pod: RunPod, audience: str, expiration_s: int) -> str:
        self.tokens += 1
        return f"{pod.spec.service_account_name}-{expiration_s}-{self.tokens}"

    def host_path_of_claim(self, namespace: str, name: str) -> str:
        return f"/srv/{namespace}/{name}"


def pod(*volumes: object) -> RunPod:
    mounts = [{"name": "access", "mountPath": TOKEN_FOLDER}]
    spec = {
        "serviceAccountName": "reader",
        "containers": [{"name": "main", "volumeMounts": mounts}],
        "volumes": volumes,
    }
    return msgspec.convert({"metadata": {"name": "p", "namespace": "team", "uid": "u"}, "spec": spec}, RunPod)


PROJECTED = {
    "name": "access",
    "projected": {"sources": [
        {"serviceAccountToken": {"path": "token", "expirationSeconds": 3607}},
        {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
        {"downwardAPI": {"items": [{"path": "namespace", "fieldRef": {"fieldPath": "metadata.namespace"}}]}},
    ]},
}  # fmt: skip


def test_a_service_account_is_a_folder(tmp_path: Path) -> None:
    said, node = Said(), EmulatedNode("n", None, tmp_path / "node")
    for _ in range(2):  # once for each container; the token is asked for once
        laid = lay_volumes(
            pod(PROJECTED), node, tmp_path / "pod", said, lambda path: {"metadata.namespace": "team"}[path]
        )
    found = {file.name: file.read_text() for file in Path(laid["access"]).iterdir()}
    assert found == {"token": "reader-3607-1", "ca.crt": "PEM", "namespace": "team"}
    assert service_account_volume(pod(PROJECTED).spec.containers[0]) == "access"


def test_claims_are_paths_of_the_node(tmp_path: Path) -> None:
    node = EmulatedNode("n", None, tmp_path / "node", {"/srv": tmp_path / "disk"})
    own = {"name": "scenes", "ephemeral": {"volumeClaimTemplate": {}}}
    shared = {"name": "incoming", "persistentVolumeClaim": {"claimName": "box"}}
    laid = lay_volumes(pod(own, shared), node, tmp_path / "pod", Said(), str)
    assert laid == {"scenes": str(tmp_path / "disk/team/p-scenes"), "incoming": str(tmp_path / "disk/team/box")}
    assert all(Path(path).is_dir() for path in laid.values())


def test_what_is_not_there_is_waited_for(tmp_path: Path) -> None:
    volume = {"name": "tls", "secret": {"secretName": "gone"}}
    with pytest.raises(PlanError, match='secret "gone" not found'):
        lay_volumes(pod(volume), EmulatedNode("n", None, tmp_path / "node"), tmp_path / "pod", Said(), str)


def test_a_second_scheduler_finds_its_files_and_its_credentials(tmp_path: Path) -> None:
    config = tmp_path / "scheduler.yaml"
    config.write_text("leaderElection: {leaderElect: true}\nextenders: [{urlPrefix: 'https://e.ns.svc:9466'}]\n")
    given = (f"--config={config}", "--v=2")
    made = local_arguments(given, "127.1.1.1", "/kubeconfig", lambda text: text.replace("e.ns.svc", "127.1.1.2"))
    flags = dict(word.removeprefix("--").split("=", 1) for word in made)
    assert flags["v"] == "2"
    assert flags["bind-address"] == "127.1.1.1"
    document = yaml.safe_load(Path(flags["config"]).read_text())
    assert document["extenders"] == [{"urlPrefix": "https://127.1.1.2:9466"}]
    assert document["leaderElection"] == {"leaderElect": True}
    assert document["clientConnection"] == {"kubeconfig": "/kubeconfig"}
    with pytest.raises(PlanError, match="mounted service account"):
        local_arguments(given, "127.1.1.1", "", str)
