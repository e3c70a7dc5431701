"""The extender on a real Kubernetes: state from its API server, asked by its kube-scheduler, pods woken in time."""

from __future__ import annotations

import base64
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import msgspec
import pytest

from fleet.digest import Slice
from fleet.labels import SCENES_ANNOTATION
from fleet.partitions import Cutting
from fleet.snapshot import Gpu
from kube.device_objects import DeviceClass, ResourceSlice
from local_fleet.child import verb_child
from local_fleet.control_plane.binaries import Binaries
from local_fleet.control_plane.certificates import Authority
from local_fleet.control_plane.plane import ControlPlane
from scheduler_extender.contest import PLUGIN_POINTS, TAINT_POINTS
from scheduler_extender.devices import gpus_of, read_class
from scheduler_extender.scheduler_config import DEFAULT_WEIGHT, Wanted, generate
from tests.control_plane.objects import add_node, node_of, pod
from tests.kubernetes_autoscaler.cluster import ACCOUNT, Process, Space, demand_of, install
from tests.scheduler_extender.conftest import GB, digest
from tests.scheduler_extender.kubernetes_rig import SCHEDULER, SLICE, KubernetesRig, allow_extender
from tests.scheduler_extender.partitioned_gpus import memory_class, profile_class, slices_of, whole_class

TAKEN = tuple(Slice("1g.10gb", start, True, f"ghost-{start}") for start in range(7))


@pytest.fixture(scope="module")
def plane(control_plane_binaries: Binaries, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """A control plane of our own: its API server is killed, and its nodes are no other test's."""
    with ControlPlane(control_plane_binaries, tmp_path_factory.mktemp("extender-plane")) as plane:
        yield plane


@pytest.fixture
def rig(plane: ControlPlane) -> Iterator[KubernetesRig]:
    """An extender that knows nothing yet, a scheduler that asks it; nodes and pods go with the test."""
    rig = KubernetesRig(plane)
    try:
        yield rig
    finally:
        rig.stop()
        plane.kubectl("delete", "pods,nodes", "--all", "--force", "--grace-period=0")
        plane.kubectl("delete", "resourceclaims,resourceslices,deviceclasses", "--all", "--force", "--grace-period=0")


def test_pods_land_where_their_scenes_lie_and_reservations_are_confirmed(rig: KubernetesRig) -> None:
    rig.start()
    for number in range(4):
        rig.add_node(f"gpu-{number}", digest(f"gpu-{number}", {f"scene-{number}": 2 * GB}))
    for number in range(4):
        rig.run_pod(f"renderer-{number}", f"scene-{number}")
    rig.until(lambda: all(rig.node_of(f"renderer-{number}") for number in range(4)))
    assert [rig.node_of(f"renderer-{number}") for number in range(4)] == [f"gpu-{number}" for number in range(4)]
    rig.until(lambda: rig.metric("splatfleet_extender_reservations ") == 0)
    assert rig.metric('splatfleet_extender_placements_total{tier="disk"}') == 4
    assert rig.metric("splatfleet_extender_reservations_expired_total") == 0


def test_pods_without_scenes_go_where_what_their_pool_is_expected_to_serve_lies(
    rig: KubernetesRig, plane: ControlPlane, tmp_path: Path
) -> None:
    """The autoscaler's process writes what it expects into the status of its resource, the extender reads it there."""
    install(plane)
    rig.start()
    for number, scene in enumerate(("other", "ball")):
        rig.add_node(f"gpu-{number}", digest(f"gpu-{number}", {scene: 2 * GB}))
    space = Space(plane, "expected")
    space.deploy()
    space.autoscale({"maxReplicas": 1})
    kubeconfig = plane.access.service_account("default", ACCOUNT)
    with demand_of("expected") as demand:
        demand.rate_per_s = 2.0
        flags = ["--gateway", demand.url, "--namespace", "expected", "--lease-namespace", "expected"]
        autoscaler = Process(kubeconfig, tmp_path, "autoscaler", [*flags, "--interval-s", "0.5"])
        try:
            rig.until(lambda: rig.expected("expected") == {"ball": 1.0})
        finally:
            autoscaler.stop()
    assert space.resource()["status"]["sceneShares"] == [{"scene": "ball", "share": "1"}]
    for name in ("renderer-1", "renderer-2"):
        uid = rig.run_pod(name, pool="expected")
        rig.until(lambda: bool(rig.node_of(name)))  # noqa: B023
        assert rig.node_of(name) == "gpu-1"
        explained = rig.client.get("/explain", params={"uid": uid}).json()
        assert explained["pod"]["expected_scenes"] == {"ball": 1.0}
        waits_s = {line["node"]: line["time_to_ready_s"] for line in explained["nodes"]}
        assert waits_s["gpu-1"] < waits_s["gpu-0"]
    space.close()
    rig.until(lambda: rig.expected("expected") == {})


def test_kube_scheduler_chooses_among_those_that_can_win(rig: KubernetesRig) -> None:
    """Of many nodes the warm ones are named; a pod that prefers others has its say among all."""
    rig.start()
    contest = rig.extender.contest
    contest.weight, contest.taints_known, contest.few = DEFAULT_WEIGHT, True, 4
    cold = [f"cold-{number}" for number in range(contest.few)]
    for name in cold:
        rig.add_node(name, None)
    for name in ("warm-0", "warm-1"):
        rig.add_node(name, digest(name, {"robot": 9 * GB}))
    rig.until(lambda: len(rig.extender.cluster.snapshot.nodes) == len(cold) + 2)

    def named(name: str) -> int:
        rig.until(lambda: rig.node_of(name) != "", within_s=60.0)
        kept = rig.extender.explanations.of_pod("default", name)
        assert kept is not None
        assert len(kept.names) == len(cold) + 2
        return len(kept.named_scores)

    rig.run_pod("renderer-0", "robot")
    assert (named("renderer-0"), rig.node_of("renderer-0")[:4]) == (2, "warm")

    preferred = {
        "weight": 100,
        "preference": {"matchExpressions": [{"key": "kubernetes.io/hostname", "operator": "In", "values": cold[:1]}]},
    }
    document = pod("renderer-1", {SLICE: 1}, SCHEDULER, annotations={SCENES_ANNOTATION: "robot"})
    document["spec"]["affinity"] = {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [preferred]}}
    rig.plane.request("POST", "/api/v1/namespaces/default/pods", document)
    assert named("renderer-1") == len(cold) + 2

    avoided = {"spec": {"taints": [{"key": "spare", "effect": "PreferNoSchedule"}]}}
    rig.plane.request("PATCH", f"/api/v1/nodes/{cold[0]}", avoided, "application/merge-patch+json")
    rig.until(lambda: contest.plugin_points == PLUGIN_POINTS + TAINT_POINTS)


def test_a_pod_that_goes_before_it_is_bound_releases_its_place(rig: KubernetesRig) -> None:
    rig.start()
    rig.add_node("gpu-0", digest("gpu-0", slices=(Slice("1g.10gb", 0),)))
    uid = rig.run_pod("renderer-gone", selector={"no": "such-node"})  # known, and never bound
    rig.until(lambda: uid in rig.extender.cluster.snapshot.pods)
    body = pod("renderer-gone", {SLICE: 1})
    body["metadata"]["uid"] = uid
    # What gang scheduling does: it asks for a score, reverts, and never says so.
    assert rig.client.post("/prioritize", json={"Pod": body, "NodeNames": ["gpu-0"]}).json()[0]["Score"] > 0
    assert rig.metric("splatfleet_extender_reservations ") == 1
    rig.delete_pod("renderer-gone")
    rig.until(lambda: rig.metric("splatfleet_extender_reservations ") == 0, within_s=5.0)
    assert rig.metric("splatfleet_extender_reservations_expired_total") == 0


def test_a_refused_pod_is_woken_when_a_digest_frees_a_slice(rig: KubernetesRig) -> None:
    rig.start()
    rig.add_node("gpu-0", digest("gpu-0", slices=TAKEN))  # slices that pods hold whom nobody knows
    uid = rig.run_pod("renderer-waits")
    rig.until(lambda: rig.refused(uid))
    time.sleep(3.0)  # several rounds of digests that change nothing
    assert rig.node_of("renderer-waits") == ""
    assert rig.metric("splatfleet_extender_wakes_total") == 0
    events = rig.plane.kubectl("get", "events", "--field-selector", "involvedObject.name=renderer-waits")
    assert "splatfleet no_free_slice" in events
    rig.exporters["gpu-0"].digest = digest("gpu-0", generation=2)
    # kube-scheduler itself would look again after five minutes; its own pause between attempts grows to 10 s.
    rig.until(lambda: rig.node_of("renderer-waits") == "gpu-0", within_s=20.0)
    assert rig.metric('splatfleet_extender_wakes_total{outcome="ok"}') >= 1
    assert rig.metric("splatfleet_extender_waiting_pods") == 0


def test_a_refused_pod_is_woken_when_a_reservation_runs_out(rig: KubernetesRig) -> None:
    rig.reservation_s = 4.0
    rig.start()
    rig.add_node("gpu-0", digest("gpu-0", slices=(Slice("1g.10gb", 0),)))
    phantom = pod("phantom", {SLICE: 1})
    phantom["metadata"]["uid"] = "phantom"
    rig.client.post("/prioritize", json={"Pod": phantom, "NodeNames": ["gpu-0"]})
    uid = rig.run_pod("renderer-second")
    rig.until(lambda: rig.refused(uid), within_s=4.0)
    rig.until(lambda: rig.node_of("renderer-second") == "gpu-0", within_s=20.0)
    assert rig.metric("splatfleet_extender_reservations_expired_total") == 1


def test_it_goes_on_without_an_api_server_and_catches_up(rig: KubernetesRig) -> None:
    rig.start()
    rig.add_node("gpu-0", digest("gpu-0", {"robot": GB}))
    rig.add_node("gpu-1", digest("gpu-1"))
    rig.run_pod("renderer-before", "robot")
    rig.until(lambda: rig.node_of("renderer-before") == "gpu-0")
    os.kill(rig.plane.pid("kube-apiserver"), signal.SIGKILL)
    asked = pod("asked", {SLICE: 1})
    asked["metadata"] |= {"uid": "asked", "annotations": {"splatfleet.io/scenes": "robot"}}
    down_s = time.monotonic()
    while time.monotonic() - down_s < 4.0:  # kube-scheduler comes back the later, the longer it was alone
        scores = rig.client.post("/prioritize", json={"Pod": asked, "NodeNames": ["gpu-0", "gpu-1"]}).json()
        assert scores[0]["Score"] > scores[1]["Score"]  # from what it knows, and from digests that go on
        assert rig.client.get("/-/ready").status_code == 200  # a short absence is no reason to be taken out
        time.sleep(0.5)
    assert rig.metric('splatfleet_watch_failures_total{resource="pods"}') > 0
    rig.plane.restart_program("kube-apiserver")
    rig.plane.wait_ready()
    rig.plane.kubectl("delete", "pod/renderer-before", "--force", "--grace-period=0")
    rig.add_node("gpu-2", digest("gpu-2", {"train": GB}))
    rig.run_pod("renderer-first", selector={"kubernetes.io/hostname": "gpu-2"})  # until kube-scheduler knows the node
    rig.until(lambda: rig.node_of("renderer-first") == "gpu-2", within_s=90.0)
    rig.run_pod("renderer-after", "train")
    rig.until(lambda: rig.node_of("renderer-after") == "gpu-2", within_s=90.0)
    known = rig.extender.cluster.snapshot
    rig.until(lambda: "renderer-before" not in {seen.name for seen in rig.extender.cluster.snapshot.pods.values()})
    assert {"gpu-0", "gpu-1", "gpu-2"} <= known.nodes.keys()


def test_a_node_that_is_deleted_is_forgotten(rig: KubernetesRig) -> None:
    rig.start()
    rig.add_node("gpu-0", digest("gpu-0", {"robot": GB}))
    rig.add_node("gpu-1", digest("gpu-1"))
    rig.plane.kubectl("delete", "node/gpu-0", "pod/exporter-gpu-0", "--force", "--grace-period=0")
    rig.until(lambda: "gpu-0" not in rig.extender.cluster.snapshot.nodes)
    rig.until(lambda: "gpu-0" not in rig.extender.poller.urls)
    rig.run_pod("renderer-left", "robot")
    rig.until(lambda: rig.node_of("renderer-left") == "gpu-1")
    rig.add_node("gpu-2", digest("gpu-2"))  # takes the row of the one that is gone
    assert rig.client.get("/-/ready").status_code == 200


def test_devices_of_dynamic_resource_allocation_are_seen(rig: KubernetesRig) -> None:
    rig.start()
    rig.add_node("gpu-0", None, slices=0)
    rig.plane.apply(_device_class(), _resource_slice("gpu-0", slices=2))
    rig.until(lambda: bool(rig.extender.cluster.snapshot.nodes["gpu-0"].gpus))
    uids = [rig.run_pod(f"claims-{number}") for number in range(2)]
    rig.until(lambda: all(rig.node_of(f"claims-{number}") == "gpu-0" for number in range(2)), within_s=20.0)

    def holders() -> set[str]:
        return {cut.pod_uid for gpu in rig.extender.cluster.snapshot.nodes["gpu-0"].gpus for cut in gpu.slices}

    rig.until(lambda: holders() == set(uids))
    gpu = rig.extender.cluster.snapshot.nodes["gpu-0"].gpus[0]
    assert [(cut.profile, cut.start) for cut in gpu.slices] == [("1g.10gb", 0), ("1g.10gb", 1)]
    third = pod("third", {SLICE: 1})
    third["metadata"]["uid"] = "third"
    answer = rig.client.post("/filter", json={"Pod": third, "NodeNames": ["gpu-0"]}).json()
    assert "no_free_slice" in answer["FailedNodes"]["gpu-0"]
    rig.delete_pod("claims-0")
    rig.until(lambda: holders() == {uids[1], ""}, within_s=20.0)


def _device_class() -> dict[str, Any]:
    """Kubernetes gives a claim of this class to a pod that asks for the extended resource."""
    expression = 'device.driver == "gpu.nvidia.com" && device.attributes["gpu.nvidia.com"].profile == "1g.10gb"'
    return {
        "apiVersion": "resource.k8s.io/v1",
        "kind": "DeviceClass",
        "metadata": {"name": "mig-1g.10gb"},
        "spec": {"extendedResourceName": SLICE, "selectors": [{"cel": {"expression": expression}}]},
    }


def _resource_slice(node: str, slices: int) -> dict[str, Any]:
    def device(start: int) -> dict[str, Any]:
        texts = {"type": "mig", "profile": "1g.10gb", "parentUUID": "GPU-1", "productName": "NVIDIA H100 80GB HBM3"}
        attributes = {name: {"string": text} for name, text in (texts | {"uuid": f"MIG-{start}"}).items()}
        capacity = {f"memorySlice{start}": {"value": "1"}}
        return {"name": f"gpu-0-mig-19-{start}-1", "attributes": attributes, "capacity": capacity}

    return {
        "apiVersion": "resource.k8s.io/v1",
        "kind": "ResourceSlice",
        "metadata": {"name": f"{node}-gpu.nvidia.com"},
        "spec": {
            "driver": "gpu.nvidia.com",
            "nodeName": node,
            "pool": {"name": node, "generation": 1, "resourceSliceCount": 1},
            "devices": [device(start) for start in range(slices)],
        },
    }


def test_kube_scheduler_gives_the_devices_that_we_foresee(rig: KubernetesRig) -> None:
    """Slices that are cut on demand, asked for by profile, by memory and as whole GPUs: the real allocator's choice."""
    rig.start()
    node, wide = "gpu-0", "example.com/slice-20gb"
    rig.add_node(node, None, slices=0)
    classes = [profile_class("1g.10gb"), profile_class("3g.40gb"), whole_class(), memory_class(20, wide)]
    rig.plane.apply(*classes, *slices_of(node, gpus=2))
    foreseen = Cutting([gpu.partitions for gpu in _inventory(node, classes, gpus=2) if gpu.partitions is not None])
    asked = [SLICE, wide, "nvidia.com/mig-3g.40gb", SLICE, wide, wide, "nvidia.com/gpu", SLICE]
    rig.until(lambda: bool(rig.extender.cluster.snapshot.nodes[node].gpus))
    for number, resource in enumerate(asked):
        document = pod(f"cut-{number}", {resource: 1}, SCHEDULER)
        uid = rig.plane.request("POST", "/api/v1/namespaces/default/pods", document)["metadata"]["uid"]
        given = foreseen.first_fit([resource], uid)
        if given is None:
            rig.until(lambda number=number: "PodScheduled" in _conditions(rig, f"cut-{number}"))  # type: ignore[misc]
            assert rig.node_of(f"cut-{number}") == ""
            continue
        expected = [foreseen.gpus[gpu].devices[place].name for gpu, place in given]
        rig.until(lambda uid=uid: uid in _devices_of_pods(rig, node), within_s=20.0)  # type: ignore[misc]
        assert _devices_of_pods(rig, node)[uid] == expected, (number, resource)
    assert any(holder for holder in foreseen.holders.values())


def _inventory(node: str, classes: list[dict[str, Any]], gpus: int) -> tuple[Gpu, ...]:
    served = [read_class(msgspec.convert(document, DeviceClass)) for document in classes]
    served.sort(key=lambda found: found.resources)
    return gpus_of([msgspec.convert(document, ResourceSlice) for document in slices_of(node, gpus)], {}, served)


def _devices_of_pods(rig: KubernetesRig, node: str) -> dict[str, list[str]]:
    """Which devices each pod holds, as the extender has learned from claims."""
    held: dict[str, list[str]] = {}
    for gpu in rig.extender.cluster.snapshot.nodes[node].gpus:
        for device in gpu.partitions.devices if gpu.partitions else ():
            if device.holder:
                held.setdefault(device.holder, []).append(device.name)
    return held


def _conditions(rig: KubernetesRig, name: str) -> list[str]:
    found = rig.plane.request("GET", f"/api/v1/namespaces/default/pods/{name}")
    return [condition["type"] for condition in found["status"].get("conditions", ())]


def test_the_verb_answers_kube_scheduler_over_mutual_tls(plane: ControlPlane, tmp_path: Path, free_port: int) -> None:
    authority = Authority(tmp_path, "extender-authority")
    server = authority.issue("extender", hosts=["127.0.0.1"])
    client = authority.issue("kube-scheduler")
    flags = ["--kubernetes", "--listen", f"127.0.0.1:{free_port}", "--client-ca", str(authority.certificate)]
    flags += ["--tls-certificate", str(server.certificate), "--tls-key", str(server.key)]
    account = {"KUBECONFIG": str(allow_extender(plane))}
    child = verb_child("extender", flags, tmp_path / "extender.log", account)
    ca_data = base64.b64encode(authority.certificate.read_bytes()).decode()
    wanted = Wanted(f"https://127.0.0.1:{free_port}", "over-tls", 13, ca_data, str(client.certificate), str(client.key))
    try:
        child.wait_listening(free_port)
        for name in ("tls-0", "tls-1"):  # before the scheduler, which asks nobody to prioritize one node
            add_node(plane, name, {SLICE: 1})
        plane.start_scheduler(generate([SLICE], wanted), name="over-tls")
        plane.request("POST", "/api/v1/namespaces/default/pods", pod("over-tls", {SLICE: 1}, "over-tls"))
        end_s = time.monotonic() + 15.0
        while not node_of(plane, "over-tls"):
            assert time.monotonic() < end_s, child.log_tail()
            time.sleep(0.1)
        assert '"event":"prioritized"' in child.log.read_text().replace(": ", ":")
    finally:
        plane.stop_program("over-tls")
        child.stop(20.0)
        plane.kubectl("delete", "pods,nodes", "--all", "--force", "--grace-period=0")
    assert child.exit_code() == 0


def test_an_extender_that_is_killed_in_a_burst_costs_nothing_and_its_successor_knows_all(
    plane: ControlPlane, tmp_path: Path, free_port: int
) -> None:
    flags = ["--kubernetes", "--listen", f"127.0.0.1:{free_port}"]
    account = {"KUBECONFIG": str(allow_extender(plane))}
    first = verb_child("extender", flags, tmp_path / "first.log", account)
    try:
        first.wait_listening(free_port)
        plane.start_scheduler(generate([SLICE], Wanted(f"http://127.0.0.1:{free_port}", "burst")), name="burst")
        for name in ("burst-0", "burst-1", "burst-2"):
            add_node(plane, name, {SLICE: 7})
        names = [f"burst-{number}" for number in range(21)]
        for number, name in enumerate(names):
            plane.request("POST", "/api/v1/namespaces/default/pods", pod(name, {SLICE: 1}, "burst"))
            if number == 10:
                os.kill(first.pid, signal.SIGKILL)
        end_s = time.monotonic() + 20.0
        while not all(node_of(plane, name) for name in names):
            assert time.monotonic() < end_s, "pods wait for an extender that is gone"
            time.sleep(0.2)
        places = [node_of(plane, name) for name in names]
        assert {places.count(node) for node in places} == {7}  # every slice once, as kube-scheduler counts too
        second = verb_child("extender", flags, tmp_path / "second.log", account)
        try:
            second.wait_listening(free_port)
            with httpx2.Client(base_url=f"http://127.0.0.1:{free_port}", trust_env=False) as client:
                end_s = time.monotonic() + 20.0
                while client.get("/-/ready").status_code != 200:
                    assert time.monotonic() < end_s, client.get("/-/ready").text
                    time.sleep(0.1)
                # What it listed may be older than the last binding, which then comes by its watch.
                while 'splatfleet_extender_placements_total{tier="none"} 21.0' not in client.get("/metrics").text:
                    assert time.monotonic() < end_s, client.get("/metrics").text
                    time.sleep(0.1)
                assert "splatfleet_extender_reservations 0.0" in client.get("/metrics").text
        finally:
            second.stop()
    finally:
        plane.stop_program("burst")
        first.stop()
        plane.kubectl("delete", "pods,nodes", "--all", "--force", "--grace-period=0")
