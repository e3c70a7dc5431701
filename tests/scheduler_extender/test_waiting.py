"""Which freed node wakes which refused pod, and what GPUs the devices of the API server make."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import msgspec

from fleet.digest import GpuDigest, Slice
from fleet.mig import MigProfile
from fleet.snapshot import Gpu, Pod
from kube.device_objects import ResourceClaim, ResourceSlice
from scheduler_extender.cluster import Cluster
from scheduler_extender.devices import gpus_of, holders_of
from scheduler_extender.fit import FITS, Reason
from scheduler_extender.waiting import Waiting
from tests.scheduler_extender.conftest import GB, digest

ONE = MigProfile.parse("1g.10gb")


def renderer(uid: str, pool: str = "web") -> Pod:
    return Pod(uid, uid, "default", pool=pool, profiles=(ONE,))


def everything_fits(_: Pod, names: Sequence[str]) -> list[bool]:
    return [True] * len(names)


def test_only_a_node_that_was_refused_and_fits_now_wakes() -> None:
    waiting = Waiting()
    waiting.refuse(renderer("a"), ["gpu-0", "gpu-1"])
    assert waiting.wakes(["gpu-2"], everything_fits) == ""  # never offered: something else rules it out
    assert waiting.wakes(["gpu-1"], lambda _, names: [False] * len(names)) == ""
    assert waiting.wakes(["gpu-2", "gpu-1"], everything_fits) == "gpu-1"
    waiting.forget("a")
    assert waiting.wakes(["gpu-1"], everything_fits) == ""
    assert len(waiting) == 0


def test_pods_of_one_template_are_asked_about_once() -> None:
    waiting = Waiting()
    for number in range(1000):
        waiting.refuse(renderer(f"pod-{number}"), ["gpu-0"])
    asked: list[str] = []

    def fits(pod: Pod, names: Sequence[str]) -> list[bool]:
        asked.append(pod.uid)
        return [False] * len(names)

    assert waiting.wakes(["gpu-0"], fits) == ""
    assert (len(asked), len(waiting)) == (1, 1000)


def test_the_oldest_kinds_go_where_there_are_too_many() -> None:
    waiting = Waiting(most_kinds=3)
    for number in range(10):
        waiting.refuse(renderer(f"pod-{number}", pool=f"pool-{number}"), ["gpu-0"])
    assert waiting.uids == ["pod-7", "pod-8", "pod-9"]


def test_what_changes_a_node_is_freed_and_what_a_call_tries_out_is_not() -> None:
    cluster = Cluster()
    cluster.apply_digest("gpu-0", digest("gpu-0"), 1.0)
    cluster.apply_digest("gpu-1", digest("gpu-1"), 1.0)
    assert cluster.take_freed() == {"gpu-0", "gpu-1"}
    decision = cluster.decide(renderer("a"), ["gpu-0"], 1.0)
    cluster.fit(renderer("b"), ["gpu-0", "gpu-1"])
    assert cluster.take_freed() == set()
    cluster.reserve(decision, 1.0)
    cluster.expire(100.0)
    assert cluster.take_freed() == {"gpu-0"}


def resource_slice(name: str, devices: list[dict[str, object]], generation: int = 1) -> ResourceSlice:
    pool = {"name": "gpu-0", "generation": generation, "resourceSliceCount": 1}
    spec = {"driver": "gpu.nvidia.com", "nodeName": "gpu-0", "pool": pool, "devices": devices}
    return msgspec.convert({"metadata": {"name": name}, "spec": spec}, ResourceSlice)


def mig_device(start: int, memory_slices: int = 1, **fields: object) -> dict[str, object]:
    texts = {"type": "mig", "profile": "1g.10gb", "parentUUID": "GPU-1", "productName": "NVIDIA H100 80GB HBM3"}
    capacity = {f"memorySlice{at}": {"value": "1"} for at in range(start, start + memory_slices)}
    attributes = {key: {"string": value} for key, value in texts.items()}
    return {"name": f"mig-{start}", "attributes": attributes, "capacity": capacity, **fields}


def claim(uid: str, device: str, pod_uid: str = "", driver: str = "gpu.nvidia.com") -> ResourceClaim:
    result = {"request": "r", "driver": driver, "pool": "gpu-0", "device": device}
    users = [{"resource": "pods", "name": "p", "uid": pod_uid}] if pod_uid else []
    status = {"allocation": {"devices": {"results": [result]}}, "reservedFor": users}
    return msgspec.convert({"metadata": {"name": uid, "uid": uid}, "status": status}, ResourceClaim)


def test_devices_become_slices_with_their_holders() -> None:
    holders = holders_of(claim("c-1", "mig-0", "pod-1")) | holders_of(claim("c-2", "mig-2"))
    holders |= holders_of(claim("c-3", "mig-1", "pod-3", driver="other.example"))
    tainted = mig_device(2, taints=[{"key": "xid", "effect": "NoSchedule"}])
    found = gpus_of([resource_slice("s", [mig_device(1), mig_device(0, 2), tainted])], holders)
    expected = (Slice("1g.10gb", 0, True, "pod-1"), Slice("1g.10gb", 1), Slice("1g.10gb", 2, False, "c-2"))
    assert found == (Gpu("GPU-1", "NVIDIA H100 80GB HBM3", True, expected),)


def test_devices_that_do_not_say_what_they_take_are_left_to_kube_scheduler() -> None:
    assert gpus_of([resource_slice("s", [mig_device(0, 0)])], {}) == ()


def test_what_the_driver_said_before_does_not_count() -> None:
    old, new = resource_slice("old", [mig_device(0), mig_device(1)]), resource_slice("new", [mig_device(4)], 2)
    assert [cut.start for cut in gpus_of([old, new], {})[0].slices] == [4]


def test_a_digest_wins_on_what_exists_and_the_api_server_on_who_holds_it() -> None:
    cluster = Cluster()
    cluster.add_node("gpu-0")
    inventory = (Gpu("GPU-gpu-0", "H100-80", True, (Slice("1g.10gb", 0, True, "pod-1"), Slice("1g.10gb", 1))),)
    cluster.set_inventory("gpu-0", inventory)
    assert cluster.snapshot.nodes["gpu-0"].gpus == inventory
    seen = digest("gpu-0", slices=(Slice("1g.10gb", 0), Slice("1g.10gb", 1, healthy=False)))
    cluster.apply_digest("gpu-0", seen, 1.0)
    cuts = cluster.snapshot.nodes["gpu-0"].gpus[0].slices
    assert cuts == (Slice("1g.10gb", 0, True, "pod-1"), Slice("1g.10gb", 1, False))
    verdict = cluster.fit(renderer("a"), ["gpu-0"])
    assert verdict.tolist() == [list(Reason).index(Reason.NO_FREE_SLICE)]
    cluster.set_inventory("gpu-0", ())
    assert cluster.fit(renderer("a"), ["gpu-0"]).tolist() == [FITS]


def test_a_node_that_is_gone_leaves_nothing_to_the_one_that_takes_its_row() -> None:
    cluster = Cluster()
    for name in ("gpu-0", "gpu-1"):
        cluster.apply_digest(name, digest(name, {"robot": GB}), 1.0)
    cluster.set_capacity_type("gpu-0", "spot")
    pod = Pod("a", "a", "default", node="gpu-0", profiles=(ONE,), scenes=("train",), scene_bytes={"train": GB})  # type: ignore[arg-type]
    cluster.set_pod(pod, 1.0)
    row = cluster.table.rows["gpu-0"]
    cluster.remove_node("gpu-0")
    cluster.remove_node("gpu-0")
    assert float(cluster.table.scenes.copies[cluster.table.scenes.columns["robot"].index]) == 1
    cluster.add_node("gpu-2")
    table = cluster.table
    assert table.rows["gpu-2"] == row
    assert not table.unreserved[row]
    assert not table.used[row]
    assert table.queued_bytes[row] == 0
    assert table.scenes.columns["robot"].tier[row] == 0
    assert table.profiles[ONE].existing[row] == 0
    assert cluster.fit(renderer("b"), ["gpu-2"]).tolist() == [FITS]  # nobody said what it has


def test_a_digest_without_gpus_says_nothing_of_gpus() -> None:
    cluster = Cluster()
    cluster.apply_digest("gpu-0", replace(digest("gpu-0"), gpus=()), 1.0)
    assert cluster.fit(renderer("a"), ["gpu-0"]).tolist() == [FITS]
    cluster.apply_digest("gpu-0", replace(digest("gpu-0"), gpus=(GpuDigest("GPU-1", "H100-80"),)), 2.0)
    assert cluster.fit(renderer("a"), ["gpu-0"]).tolist() != [FITS]
