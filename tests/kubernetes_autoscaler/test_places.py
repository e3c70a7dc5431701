"""A node comes for a forecast peak before the pods are asked for; placeholders block nobody and end by themselves."""

from __future__ import annotations

import json
import math
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from autoscaler.decision import PlaceAsk
from autoscaler.placeholders import NoPlaceholder, Placeholders, Style, Wanted, document, missing, surplus
from autoscaler.resource import Resource, format_time, parse_resource
from fleet.labels import GPU_RESOURCE, MIG_RESOURCE_PREFIX, PLACEHOLDER_LABEL, POOL_LABEL, UNTIL_ANNOTATION
from kube.connection import Connection
from kube.objects import PODS, Meta, Pod, PodSpec
from kube.reflector import Reflector, Scope
from local_fleet.control_plane.plane import ControlPlane
from local_fleet.kubelet.emulated_node import EmulatedNode
from local_fleet.kubelet.kubelet import Kubelet, KubeletSettings
from local_fleet.kubelet.node_group import NodeGroup, Terms
from local_fleet.kubelet.processes import starter
from tests.control_plane.objects import add_node
from tests.kubernetes.fleet import gpu
from tests.kubernetes_autoscaler.cluster import ACCOUNT, Process, Space, ready_pods, until

SLICE = f"{MIG_RESOURCE_PREFIX}1g.10gb"
CLASS = "test-placeholder"
STYLE = Style(CLASS, "registry.k8s.io/pause:3.10")
IDLE = ["python", "-c", "import signal; signal.pause()"]
NOW_S = 1_800_000_000.0
SEASON_S = 90
NODE_S = 12
SLOTS = 3  # slices of a node
LOW = 2  # pods for three to five arrivals a second, of a tenth of a second each


def resource(pool: str = "renderer", uid: str = "u-1") -> Resource:
    metadata = {"name": pool, "namespace": "ns", "uid": uid}
    spec = {"scaleTargetRef": {"name": pool}, "maxReplicas": 9, "warmup": {"nodeStartupSeconds": 30}}
    return parse_resource({"metadata": metadata, "spec": spec}, NOW_S)


def wanted(count: int, until_s: float = NOW_S + 60, pool: str = "renderer") -> Wanted:
    return Wanted(resource(pool), PlaceAsk(count, until_s, 30.0))


def held(number: int, until_s: float = NOW_S + 60, node: str = "", pool: str = "renderer", **meta: Any) -> Pod:
    annotations = {UNTIL_ANNOTATION: format_time(until_s)} if until_s else {}
    name = f"{pool}-place-{number}"
    made = Meta(name, "ns", name, labels={PLACEHOLDER_LABEL: pool}, annotations=annotations, **meta)
    return Pod(made, PodSpec(node_name=node))


def names(pods: list[Pod]) -> list[str]:
    return [pod.metadata.name for pod in pods]


def test_what_is_missing_and_what_is_too_much() -> None:
    there = [held(0, node="n"), held(2), held(1, deletion_timestamp="2027-01-01T00:00:00Z")]
    assert missing(there, wanted(4), NOW_S) == ["renderer-place-3", "renderer-place-4"]
    assert missing(there, wanted(2), NOW_S) == []
    assert surplus(there, {"renderer": wanted(2)}, NOW_S) == []
    assert names(surplus(there, {"renderer": wanted(1)}, NOW_S)) == ["renderer-place-2"], "the one without a node"
    assert names(surplus(there, {}, NOW_S)) == ["renderer-place-0", "renderer-place-2"]


@pytest.mark.parametrize("until_s", [NOW_S - 1, 0.0])
def test_one_that_is_over_goes_and_its_name_is_left_alone(until_s: float) -> None:
    there = [held(0, until_s)]
    assert names(surplus(there, {"renderer": wanted(1)}, NOW_S)) == ["renderer-place-0"]
    assert missing(there, wanted(1), NOW_S) == ["renderer-place-1"]


def test_a_placeholder_asks_for_what_a_pod_would_and_is_no_pod_of_the_pool() -> None:
    container = {"name": "r", "image": "renderer", "resources": {"limits": {SLICE: "1"}, "claims": []}, "env": []}
    spec = {
        "containers": [container, {"name": "beside", "resources": {"requests": {"cpu": "1"}}}],
        "nodeSelector": {"pool": "x"},
        "tolerations": [{"key": GPU_RESOURCE, "operator": "Exists"}],
        "schedulerName": "placing",
        "priorityClassName": "high",
        "volumes": [{"name": "v"}],
        "affinity": {"podAntiAffinity": {}, "nodeAffinity": {"a": 1}},
    }
    template = {"metadata": {"labels": {"app": "renderer", POOL_LABEL: "renderer"}}, "spec": spec}
    made = document("renderer-place-0", template, wanted(1), STYLE, NOW_S)
    assert POOL_LABEL not in made["metadata"]["labels"]
    assert "app" not in made["metadata"]["labels"]
    assert made["metadata"]["ownerReferences"][0]["uid"] == "u-1"
    assert made["spec"]["activeDeadlineSeconds"] == 60
    assert made["spec"]["priorityClassName"] == CLASS
    assert {key: made["spec"][key] for key in ("nodeSelector", "tolerations", "schedulerName", "affinity")} == {
        "nodeSelector": spec["nodeSelector"],
        "tolerations": spec["tolerations"],
        "schedulerName": "placing",
        "affinity": {"nodeAffinity": {"a": 1}},
    }
    asked = [{"limits": {SLICE: "1"}}, {"requests": {"cpu": "1"}}]
    assert [one["resources"] for one in made["spec"]["containers"]] == asked
    assert "volumes" not in made["spec"]
    spec["resourceClaims"] = [{"name": "gpu"}]
    with pytest.raises(NoPlaceholder, match="claims"):
        document("renderer-place-0", template, wanted(1), STYLE, NOW_S)


@pytest.fixture(scope="module")
def priority(control_plane: ControlPlane) -> Iterator[None]:
    api = {"apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass"}
    control_plane.apply({**api, "metadata": {"name": CLASS}, "value": -10, "preemptionPolicy": "Never"})
    yield
    control_plane.request("DELETE", f"/apis/scheduling.k8s.io/v1/priorityclasses/{CLASS}")


@pytest.fixture
def connection(control_plane: ControlPlane) -> Iterator[Connection]:
    found = Connection.open(control_plane.kubeconfig)
    yield found
    found.close()


def template(space: Space, selector: str) -> dict[str, Any]:
    """Renderers that sleep, each with one slice, on the nodes of one selector."""
    slices = {"requests": {SLICE: "1"}, "limits": {SLICE: "1"}}
    container = {"name": "renderer", "image": "none", "command": IDLE, "resources": slices}
    spec = {
        "containers": [container],
        "nodeSelector": {"pool": selector},
        "tolerations": [{"key": GPU_RESOURCE, "operator": "Exists", "effect": "NoSchedule"}],
        "terminationGracePeriodSeconds": 0,
    }
    return {"metadata": {"labels": {POOL_LABEL: space.namespace, "app": "renderer"}}, "spec": spec}


def deploy(space: Space, selector: str, replicas: int) -> None:
    spec = {"replicas": replicas, "selector": {"matchLabels": {"app": "renderer"}}}
    metadata = {"name": "renderer", "namespace": space.namespace}
    whole = {**spec, "template": template(space, selector)}
    space.plane.apply({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": metadata, "spec": whole})


def placeholders(space: Space) -> list[dict[str, Any]]:
    return [pod for pod in space.pods() if PLACEHOLDER_LABEL in pod["metadata"].get("labels", {})]


def renderers(space: Space) -> list[dict[str, Any]]:
    return [pod for pod in space.pods() if POOL_LABEL in pod["metadata"].get("labels", {})]


@pytest.mark.usefixtures("priority")
def test_a_renderer_takes_the_place_of_a_placeholder(space: Space, connection: Connection) -> None:
    """The real scheduler preempts: two places are held on a node of two, and two pods come."""
    node = f"{space.namespace}-places"
    add_node(space.plane, node, {SLICE: 2}, pool=node)
    held: Reflector[Pod] = Reflector(connection, PODS, Scope(space.namespace, label_selector=PLACEHOLDER_LABEL)).start()
    try:
        deploy(space, node, 0)
        space.autoscale()
        mine = parse_resource(space.resource(), time.time())
        ask = Wanted(mine, PlaceAsk(2, time.time() + 600, 30.0))
        keeper = Placeholders(connection, STYLE, held.items, lambda _: None, 5.0)
        with ready_pods(space):
            keeper.keep({mine.pool.name: ask}, time.time())
            until(lambda: [pod["spec"].get("nodeName") for pod in placeholders(space)] == [node, node], 60)
            keeper.keep({mine.pool.name: ask}, time.time())  # they are there: nothing to do
            assert len(placeholders(space)) == 2
            deploy(space, node, 2)
            until(lambda: [pod["spec"].get("nodeName") for pod in renderers(space)] == [node, node], 60)
            assert not [pod for pod in placeholders(space) if pod["spec"].get("nodeName")]
            keeper.keep({}, time.time())
            until(lambda: not placeholders(space))
    finally:
        held.stop()
        space.plane.kubectl("delete", "node", node)


class Wave(BaseHTTPRequestHandler):
    """A Prometheus at the wire: three arrivals a second, and forty for a third of each season."""

    rises_s = math.inf  # Unix seconds; the seasons before were as this one

    def do_GET(self) -> None:
        asked = urlsplit(self.path)
        values: list[list[Any]] = []
        if asked.path == "/api/v1/query_range" and self.rises_s < math.inf:
            start, end = (int(float(parse_qs(asked.query)[name][0])) for name in ("start", "end"))
            values = [[at, str(self._arrivals(at))] for at in range(start, min(end, int(time.time())) + 1)]
        kind = "matrix" if asked.path == "/api/v1/query_range" else "vector"
        data = {"resultType": kind, "result": [{"metric": {}, "values": values}] if values else []}
        body = json.dumps({"status": "success", "data": data}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _arrivals(self, at: int) -> float:
        return (40.0 if (at - 1 - self.rises_s) % SEASON_S < SEASON_S / 3 else 3.0) + at % 3

    def log_message(self, format: str, *args: object) -> None:
        del format, args


@contextmanager
def waving() -> Iterator[tuple[str, type[Wave]]]:
    wave = type("ThisWave", (Wave,), {})
    server = ThreadingHTTPServer(("127.0.0.1", 0), wave)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", wave
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture
def group(space: Space, connection: Connection, tmp_path: Path) -> Iterator[NodeGroup]:
    """A cloud's node group: a node two seconds after a pod found no place, gone when it is idle."""
    settings = KubeletSettings(tmp_path / "kubelet", starter(tmp_path))
    kubelet = Kubelet(connection, [], settings).start()

    def make(name: str) -> EmulatedNode:
        return EmulatedNode(name, gpu(name, ("1g.10gb",) * SLOTS), tmp_path / name, {}, {"pool": space.namespace})

    terms = Terms(boot_s=2.0, idle_s=120.0, most=4, pods_a_node=SLOTS)
    made = NodeGroup(kubelet, space.namespace, terms, make, Scope(space.namespace)).start()
    yield made
    made.stop()
    for name in list(kubelet.nodes):
        kubelet.remove_node(name)
    kubelet.stop()


@pytest.mark.usefixtures("priority")
def test_a_node_comes_for_a_forecast_peak_before_the_pods_are_asked_for(
    space: Space, installed: ControlPlane, group: NodeGroup, tmp_path: Path
) -> None:
    deploy(space, space.namespace, 1)
    warmup = {"nodeStartupSeconds": NODE_S}
    forecast = {"startupSeconds": 2, "seasonSeconds": [SEASON_S], "averageSeconds": 2}
    space.autoscale(
        {"demand": {"pool": space.namespace, "serviceSeconds": 0.1}, "warmup": warmup, "forecast": forecast}
    )
    until(lambda: len(group.nodes) == 1, 60)
    kubeconfig = installed.access.service_account("default", ACCOUNT)
    with waving() as (url, wave):
        flags = ["--prometheus", url, "--bin-s", "1", "--history-days", "0.0062", "--interval-s", "0.5"]
        flags += ["--namespace", space.namespace, "--lease-namespace", space.namespace, "--lease-s", "5"]
        process = Process(kubeconfig, tmp_path, "autoscaler", [*flags, "--placeholders", CLASS])
        try:
            until(lambda: "follows" in process.text, 120)
            wave.rises_s = time.time() + NODE_S + 16
            until(lambda: len(group.nodes) >= 2 and placeholders(space), 60)
            assert space.replicas() <= LOW, process.text[-2000:]
            until(lambda: space.replicas() >= 5, 60)
            until(lambda: all(pod["spec"].get("nodeName") for pod in renderers(space)), 60)
            until(lambda: not placeholders(space), 60)
            came = {name: space.plane.request("GET", f"/api/v1/nodes/{name}")["metadata"] for name in group.nodes}
            asked = sorted(pod["metadata"]["creationTimestamp"] for pod in renderers(space))
            second = sorted(node["creationTimestamp"] for node in came.values())[1]
            assert second < asked[LOW], (came, asked)
        finally:
            process.stop()
