"""Containers as processes: words, environment, folders and names of Services, without any cluster."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
import pytest

from fleet.digest import GpuDigest, Slice
from local_fleet.kubelet.container_plan import ContainerPlan, Place, PlanError, plan
from local_fleet.kubelet.devices import Devices, NoDevice
from local_fleet.kubelet.emulated_node import EmulatedNode
from local_fleet.kubelet.pod_spec import RunPod
from local_fleet.kubelet.service_names import Service, resolver

CONFIG = {("configmaps", "settings"): {"SIZE": "64x64", "catalogue": "{}"}, ("secrets", "tokens"): {"token": "s3cret"}}


def pod(container: Mapping[str, Any], **metadata: Any) -> RunPod:
    document = {
        "metadata": {"name": "p", "namespace": "team", "uid": "u1", **metadata},
        "spec": {"nodeName": "n1", "containers": [{"name": "main", "image": "splatfleet", **container}]},
    }
    return msgspec.convert(document, RunPod)


def planned(container: Mapping[str, Any], **metadata: Any) -> ContainerPlan:
    found = pod(container, **metadata)
    place = Place("127.9.9.1", "127.9.9.9", {"scenes": "/run/n1/scenes", "conf": "/run/p/conf"}, "/run/kubeconfig")
    return plan(found.spec.containers[0], found, place, lambda kind, name: CONFIG.get((kind, name)), lambda text: text)


def test_words_environment_and_folders() -> None:
    made = planned(
        {
            "command": ["/usr/bin/splatfleet", "exporter"],
            "args": ["--node=$(NODE)", "--listen=0.0.0.0:9465", "--scene-cache=/var/lib/scenes", "$$(NODE) $(NOBODY)"],
            "env": [
                {"name": "NODE", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}},
                {"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
                {"name": "SCENES", "valueFrom": {"fieldRef": {"fieldPath": "metadata.annotations['a/b']"}}},
                {"name": "SIZE", "valueFrom": {"configMapKeyRef": {"name": "settings", "key": "SIZE"}}},
                {"name": "CATALOGUE", "value": "/etc/conf/catalogue.json"},
                {"name": "ELSEWHERE", "value": "/etc/config/x and /home/etc/conf"},
                {"name": "ADDRESS", "value": "file:///etc/conf/x http://a/etc/conf"},
            ],
            "envFrom": [{"prefix": "S_", "secretRef": {"name": "tokens"}}],
            "volumeMounts": [
                {"name": "scenes", "mountPath": "/var/lib/scenes"},
                {"name": "conf", "mountPath": "/etc/conf"},
            ],
        },
        annotations={"a/b": "knot,planet"},
    )
    assert made.program == "splatfleet"
    assert made.arguments == (
        "exporter",
        "--node=n1",
        "--listen=127.9.9.1:9465",
        "--scene-cache=/run/n1/scenes",
        "$(NODE) $(NOBODY)",
    )
    assert made.environment == {
        "NODE": "n1",
        "IP": "127.9.9.1",
        "SCENES": "knot,planet",
        "SIZE": "64x64",
        "CATALOGUE": "/run/p/conf/catalogue.json",
        "ELSEWHERE": "/etc/config/x and /home/etc/conf",
        "ADDRESS": "file:///run/p/conf/x http://a/etc/conf",
        "S_token": "s3cret",
        "KUBECONFIG": "/run/kubeconfig",
    }


@pytest.mark.parametrize(
    ("container", "said"),
    [
        ({"command": ["nginx"]}, "'nginx' is neither"),
        ({"envFrom": [{"configMapRef": {"name": "gone"}}]}, 'configmap "gone" not found'),
        (
            {"env": [{"name": "X", "valueFrom": {"secretKeyRef": {"name": "tokens", "key": "k"}}}]},
            "secrets tokens has no key k",
        ),
        ({"env": [{"name": "X", "valueFrom": {"fieldRef": {"fieldPath": "spec.oops"}}}]}, "spec.oops"),
        ({"volumeMounts": [{"name": "nope", "mountPath": "/x"}]}, "volume nope"),
    ],
)
def test_what_is_missing_is_named(container: Mapping[str, Any], said: str) -> None:
    with pytest.raises(PlanError, match=said):
        planned(container)


def test_programs() -> None:
    assert planned({"command": ["tritonserver", "--x"]}).program == "triton"
    assert planned({"args": ["gateway"]}).program == "splatfleet"
    labelled = {"labels": {"splatfleet.io/pool": "main"}}
    document = pod({"name": "renderer"}, **labelled)
    place = Place("127.9.9.1", "127.9.9.9", {})
    made = plan(document.spec.containers[0], document, place, lambda *_: None, lambda text: text)
    assert made.program == "triton"


SERVICES = [
    {
        "metadata": {"name": "gateway", "namespace": "team"},
        "spec": {"selector": {"app": "gateway"}, "ports": [{"port": 80, "targetPort": "http"}]},
    },
    {
        "metadata": {"name": "prometheus", "namespace": "monitoring"},
        "spec": {"selector": {"app": "prometheus"}, "ports": [{"port": 9090}]},
    },
]


def ready_pod(namespace: str, app: str, address: str, holds: str = "True") -> RunPod:
    found = pod(
        {"ports": [{"name": "http", "containerPort": 8080}]}, name=address, namespace=namespace, labels={"app": app}
    )
    status = {"podIP": address, "conditions": [{"type": "Ready", "status": holds}]}
    return msgspec.convert({**msgspec.to_builtins(found), "status": status}, RunPod)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("http://gateway/v1", "http://127.1.1.1:8080/v1"),
        ("--gateway=http://gateway.team.svc:80", "--gateway=http://127.1.1.1:8080"),
        ("gateway:80", "127.1.1.1:8080"),
        ("http://prometheus.monitoring.svc.cluster.local:9090/x", "http://127.1.1.2:9090/x"),
        ("gateway", "gateway"),
        ("serverName: gateway.team.svc", "serverName: gateway.team.svc"),
        ("--verb gateway --pool=prometheus", "--verb gateway --pool=prometheus"),
        ("http://prometheus:9090", "http://prometheus:9090"),
        ("http://127.0.0.1:80 https://kubernetes.default.svc", "http://127.0.0.1:80 https://kubernetes.default.svc"),
        ("s3://gateway-bucket/x.ply a@gateway:80", "s3://gateway-bucket/x.ply a@gateway:80"),
    ],
)
def test_names_of_services_become_addresses(text: str, found: str) -> None:
    pods = [
        ready_pod("team", "gateway", "127.1.1.0", "False"),
        ready_pod("team", "gateway", "127.1.1.1"),
        ready_pod("monitoring", "prometheus", "127.1.1.2"),
    ]
    services = [msgspec.convert(document, Service) for document in SERVICES]
    assert resolver(lambda: services, lambda: pods, "team")(text) == found


def test_a_service_without_a_ready_pod_is_waited_for() -> None:
    services = [msgspec.convert(document, Service) for document in SERVICES]
    with pytest.raises(PlanError, match="no ready pod"):
        resolver(lambda: services, list, "team")("http://gateway")
    with pytest.raises(PlanError, match="no port 81"):
        resolver(lambda: services, list, "team")("http://gateway:81")


def test_slices_are_given_once_and_come_back() -> None:
    devices = Devices(
        GpuDigest("GPU-1", "H100-80", slices=(Slice("1g.10gb", 0), Slice("1g.10gb", 1), Slice("3g.40gb", 4)))
    )
    assert devices.capacity() == {"nvidia.com/mig-1g.10gb": "2", "nvidia.com/mig-3g.40gb": "1"}
    asks = {"resources": {"limits": {"nvidia.com/mig-1g.10gb": "1"}}}
    devices.allocate(pod(asks, uid="a"))
    devices.allocate(pod(asks, uid="b"))
    with pytest.raises(NoDevice, match="1 slices of 1g.10gb wanted, 0 free"):
        devices.allocate(pod(asks, uid="c"))
    devices.release("a")
    devices.allocate(pod(asks, uid="c"))
    assert [cut.pod_uid for cut in devices.now().slices] == ["c", "b", ""]
    assert devices.history == [("1g.10gb@0", "a"), ("1g.10gb@1", "b"), ("1g.10gb@0", "c")]


def test_pods_that_come_and_go_at_once_leave_every_slice_free_and_never_share_one(tmp_path: Path) -> None:
    gpu = GpuDigest("GPU-1", "H100-80", slices=tuple(Slice("1g.10gb", start) for start in range(4)))
    node = EmulatedNode("n1", gpu, tmp_path)
    asks = {"resources": {"limits": {"nvidia.com/mig-1g.10gb": "1"}}}
    before_s = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:

        def live(number: int) -> None:
            for turn in range(150):
                one = pod(asks, uid=f"{number}-{turn}")
                node.allocate(one)
                node.release(one.metadata.uid)

        with ThreadPoolExecutor(4) as threads:
            list(threads.map(live, range(4)))  # as many as slices: nobody is ever refused
    finally:
        sys.setswitchinterval(before_s)
    assert [cut.pod_uid for cut in node.devices.now().slices] == [""] * 4
