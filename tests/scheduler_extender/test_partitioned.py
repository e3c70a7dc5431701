"""GPUs that are cut when they are asked for, shares of GPUs, and slices of any profile, as the cluster decides."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import msgspec
import pytest

from fleet.labels import (
    ANY_SLICE_ANNOTATION,
    GPU_COUNT_LABEL,
    GPU_MEMORY_LABEL,
    GPU_REPLICAS_LABEL,
    GPU_SHARING_LABEL,
    PACKING_ANNOTATION,
)
from fleet.mig import MigProfile
from fleet.snapshot import Gpu, Pod, Sharing, Slice
from kube.device_objects import DeviceClass, ResourceSlice
from scheduler_extender.cluster import Cluster
from scheduler_extender.devices import Served, gpus_of, read_class, sharing_of
from scheduler_extender.fit import FITS, REASONS
from scheduler_extender.pods import PodObject, read_pod
from scheduler_extender.selectors import SelectorError
from tests.scheduler_extender.conftest import digest
from tests.scheduler_extender.partitioned_gpus import (
    device_class,
    memory_class,
    profile_class,
    slices_of,
    whole_class,
)

ONE, THREE, SEVEN = (MigProfile.parse(text) for text in ("1g.10gb", "3g.40gb", "7g.80gb"))
WIDE = "example.com/slice-20gb"
CLASSES = [profile_class("1g.10gb"), profile_class("3g.40gb"), whole_class(), memory_class(20, WIDE)]


def served(*documents: dict[str, Any]) -> list[Served]:
    return [read_class(msgspec.convert(document, DeviceClass)) for document in documents or CLASSES]


def inventory(
    node: str, gpus: int, holders: dict[tuple[str, str], str] | None = None, model: str = "NVIDIA H100 80GB HBM3"
) -> tuple[Gpu, ...]:
    slices = [msgspec.convert(document, ResourceSlice) for document in slices_of(node, gpus, model)]
    return gpus_of(slices, holders or {}, served())


def a_cluster(**gpus_of_node: int) -> Cluster:
    cluster = Cluster()
    for name, gpus in gpus_of_node.items():
        cluster.apply_digest(name, replace(digest(name), gpus=()), 1.0)
        cluster.set_inventory(name, inventory(name, gpus))
    return cluster


def verdicts(cluster: Cluster, pod: Pod, *names: str) -> list[str]:
    return ["fits" if index == FITS else REASONS[index].label for index in cluster.fit(pod, names).tolist()]


def test_a_slice_is_there_while_the_counters_cover_it() -> None:
    cluster = a_cluster(one=1)
    three = Pod("three", node="one", profiles=(THREE,))
    assert verdicts(cluster, replace(three, node=""), "one") == ["fits"]
    assert verdicts(cluster, Pod("two", profiles=(THREE, THREE)), "one") == ["fits"]
    assert verdicts(cluster, Pod("more", profiles=(THREE,) * 3), "one") == ["too_few_slices"]
    cluster.set_pod(three, 1.0)
    assert verdicts(cluster, Pod("a", profiles=(THREE,)), "one") == ["fits"]
    assert verdicts(cluster, Pod("a", profiles=(THREE,) * 2), "one") == ["no_free_slice"]
    assert verdicts(cluster, Pod("a", profiles=(ONE,) * 4), "one") == ["no_free_slice"]  # slices 4 to 6
    assert verdicts(cluster, Pod("a", gpus=1), "one") == ["no_free_gpu"]
    assert verdicts(cluster, Pod("a", profiles=(SEVEN,)), "one") == ["no_such_profile"]  # no class selects it
    cluster.remove_pod("three", 2.0)
    assert verdicts(cluster, Pod("a", gpus=1), "one") == ["fits"]


def test_a_claim_and_the_pod_that_holds_it_count_once() -> None:
    cluster = a_cluster(one=1)
    cluster.set_pod(Pod("a", node="one", profiles=(THREE,)), 1.0)
    cluster.set_inventory("one", inventory("one", 1, {("one", "gpu-0-mig-3g40gb-9-4"): "a"}))
    assert verdicts(cluster, Pod("b", profiles=(THREE,)), "one") == ["fits"]
    # The pod is gone, its claim is not yet: the place is free.
    cluster.remove_pod("a", 2.0)
    assert verdicts(cluster, Pod("b", profiles=(THREE, THREE)), "one") == ["fits"]


def test_a_class_by_memory_takes_the_first_slice_that_is_wide_enough() -> None:
    cluster = a_cluster(one=1)
    assert verdicts(cluster, Pod("a", devices=(WIDE,) * 4), "one") == ["fits"]  # four double-memory 1g
    assert verdicts(cluster, Pod("a", devices=(WIDE,) * 5), "one") == ["too_few_slices"]
    cluster.set_pod(Pod("whole", node="one", gpus=1), 1.0)
    assert verdicts(cluster, Pod("a", devices=(WIDE,)), "one") == ["no_free_slice"]
    # What no class gives is some device plugin's; what a class gives here, a node without it still may have.
    assert verdicts(cluster, Pod("a", devices=("example.com/fpga",)), "one", "unknown") == ["fits", "fits"]
    assert verdicts(cluster, Pod("a", devices=(WIDE,)), "unknown") == ["fits"]


def test_the_node_is_chosen_by_what_first_fit_does_to_its_gpus() -> None:
    """The allocator takes the first free start and asks nobody: on the GPU that is cut already it does less harm."""
    cluster = a_cluster(empty=1, cut=1)
    cluster.set_pod(Pod("there", node="cut", profiles=(ONE,)), 1.0)
    decision = cluster.decide(Pod("a", profiles=(ONE,)), ["empty", "cut"], 2.0)
    assert decision.winner == "cut"
    assert decision.costs.fragmentation_s[0] > decision.costs.fragmentation_s[1]


def test_a_sick_gpu_gives_nothing_whoever_says_so() -> None:
    cluster = a_cluster(one=2)
    seen = digest("one", slices=())
    sick = replace(seen.gpus[0], uuid="GPU-one-0", healthy=False), replace(seen.gpus[0], uuid="GPU-one-1")
    cluster.apply_digest("one", replace(seen, gpus=sick), 1.0)
    assert verdicts(cluster, Pod("a", gpus=1), "one") == ["fits"]
    assert verdicts(cluster, Pod("a", gpus=2), "one") == ["too_few_gpus"]
    assert verdicts(cluster, Pod("a", profiles=(THREE,) * 3), "one") == ["slices_unhealthy"]


def test_tainted_devices_are_passed_over() -> None:
    documents = slices_of("one", 1)
    for device in documents[1]["spec"]["devices"]:
        device["taints"] = [{"key": "gpu.nvidia.com/unhealthy", "effect": "NoSchedule"}]
    slices = [msgspec.convert(document, ResourceSlice) for document in documents]
    cluster = Cluster()
    cluster.add_node("one")
    cluster.set_inventory("one", gpus_of(slices, {}, served()))
    assert verdicts(cluster, Pod("a", profiles=(ONE,)), "one") == ["slices_unhealthy"]


def test_nothing_of_a_pool_counts_before_it_is_whole() -> None:
    documents = [msgspec.convert(document, ResourceSlice) for document in slices_of("one", 2)]
    assert gpus_of(documents[:2], {}, served()) == ()
    newer = [msgspec.convert(document, ResourceSlice) for document in slices_of("one", 1, generation=2)]
    assert [gpu.uuid for gpu in gpus_of([*documents, *newer], {}, served())] == ["GPU-one-0"]


def test_parts_of_several_kinds_in_one_node() -> None:
    """`1g.10gb` is one memory slice of an 80 GB part and two of a 40 GB part."""
    cluster = Cluster()
    seen = digest("mixed", slices=())
    small = replace(seen.gpus[0], uuid="small", model="A100-40", slices=(Slice("1g.10gb", 0), Slice("1g.10gb", 2)))
    large = replace(seen.gpus[0], uuid="large", model="H100-80", slices=(Slice("1g.10gb", 0), Slice("3g.40gb", 4)))
    cluster.apply_digest("mixed", replace(seen, gpus=(small, large)), 1.0)
    columns, row = cluster.table.profiles[ONE], cluster.table.rows["mixed"]
    assert (columns.existing[row], columns.free[row]) == (3, 3)
    assert columns.after[row] == 0b11
    for number in range(2):
        cluster.set_pod(Pod(f"pod-{number}", node="mixed", profiles=(ONE,)), 1.0)
    assert columns.after[row] == 0b1
    assert verdicts(cluster, Pod("a", profiles=(ONE, THREE)), "mixed") == ["fits"]
    assert verdicts(cluster, Pod("a", profiles=(ONE, ONE)), "mixed") == ["no_free_slice"]


def test_any_slice_of_so_much_memory() -> None:
    cluster = Cluster()
    cut = (Slice("1g.10gb", 0), Slice("2g.20gb", 2), Slice("3g.40gb", 4))
    cluster.apply_digest("gpu-0", digest("gpu-0", slices=cut), 1.0)
    assert verdicts(cluster, Pod("a", any_slice_gb=20), "gpu-0") == ["fits"]
    assert verdicts(cluster, Pod("a", any_slice_gb=80), "gpu-0") == ["no_such_profile"]
    taken = (cut[0], replace(cut[1], pod_uid="b"), replace(cut[2], healthy=False))
    cluster.apply_digest("gpu-0", digest("gpu-0", slices=taken), 2.0)
    assert verdicts(cluster, Pod("a", any_slice_gb=20), "gpu-0") == ["no_free_slice"]
    assert verdicts(cluster, Pod("a", any_slice_gb=40), "gpu-0") == ["slices_unhealthy"]


def shared(strategy: str) -> Sharing | None:
    texts = (strategy, "4", "2", "81559")
    names = (GPU_SHARING_LABEL, GPU_REPLICAS_LABEL, GPU_COUNT_LABEL, GPU_MEMORY_LABEL)
    return sharing_of(dict(zip(names, texts, strict=True)))


GIB = 1 << 30


def test_time_slices_are_counted_and_their_memory_too() -> None:
    cluster = Cluster()
    cluster.add_node("gpu-0")
    cluster.set_sharing("gpu-0", shared("time-slicing"))
    assert verdicts(cluster, Pod("a", gpus=9), "gpu-0") == ["too_few_gpus"]
    for number in range(3):
        cluster.set_pod(Pod(f"pod-{number}", node="gpu-0", gpus=1, gpu_memory_bytes=50 * GIB), 1.0)
    assert verdicts(cluster, Pod("a", gpus=1, gpu_memory_bytes=8 * GIB), "gpu-0") == ["fits"]
    assert verdicts(cluster, Pod("a", gpus=1, gpu_memory_bytes=10 * GIB), "gpu-0") == ["no_gpu_memory"]
    assert verdicts(cluster, Pod("a", gpus=1, gpu_memory_bytes=80 * GIB), "gpu-0") == ["share_too_small"]
    assert verdicts(cluster, Pod("a", gpus=6), "gpu-0") == ["no_free_gpu"]
    cluster.set_sharing("gpu-0", None)
    assert verdicts(cluster, Pod("a", gpus=9), "gpu-0") == ["fits"]  # nobody says any more what it has


def test_mps_holds_each_pod_to_its_part() -> None:
    cluster = Cluster()
    cluster.add_node("gpu-0")
    cluster.set_sharing("gpu-0", shared("mps"))
    for number in range(7):
        cluster.set_pod(Pod(f"pod-{number}", node="gpu-0", gpus=1, gpu_memory_bytes=15 * GIB), 1.0)
    assert verdicts(cluster, Pod("a", gpus=1, gpu_memory_bytes=19 * GIB), "gpu-0") == ["fits"]
    assert verdicts(cluster, Pod("a", gpus=1, gpu_memory_bytes=20 * GIB), "gpu-0") == ["share_too_small"]
    assert verdicts(cluster, Pod("a", gpus=2), "gpu-0") == ["no_free_gpu"]


def test_a_node_that_does_not_share() -> None:
    for labels in ({}, {GPU_SHARING_LABEL: "none", GPU_REPLICAS_LABEL: "4"}, {GPU_SHARING_LABEL: "mps"}):
        assert sharing_of(labels) is None


def test_a_class_that_is_not_understood_is_refused() -> None:
    with pytest.raises(SelectorError):
        served(device_class("odd", "cel.bind(x, 1, x == 1)"))


def test_what_a_pod_asks_for() -> None:
    limits = {"nvidia.com/gpu.shared": "1", WIDE: 2, "memory": "4Gi", "kubernetes.io/batch-cpu": 1}
    limits["deviceclass.resource.kubernetes.io/slice-20"] = "1"
    document = {
        "metadata": {"uid": "a", "annotations": {ANY_SLICE_ANNOTATION: " 20 ", PACKING_ANNOTATION: "spread"}},
        "spec": {
            "containers": [
                {
                    "resources": {"limits": limits},
                    "env": [{"name": "SPLATFLEET_POD_BUDGET_BYTES", "value": "5000"}, {"name": "X", "valueFrom": {}}],
                }
            ]
        },
    }
    pod = read_pod(msgspec.convert(document, PodObject))
    assert (pod.gpus, pod.any_slice_gb, pod.gpu_memory_bytes, pod.problems) == (1, 20, 5000, ())
    assert pod.packing == "spread"
    assert pod.devices == ("deviceclass.resource.kubernetes.io/slice-20", WIDE, WIDE)
    document["metadata"]["annotations"] = {ANY_SLICE_ANNOTATION: "20Gi", PACKING_ANNOTATION: "tight"}  # type: ignore[index]
    unread = read_pod(msgspec.convert(document, PodObject))
    assert "'tight' is neither pack nor spread" in unread.problems[0]
    assert "any-slice-gb" in unread.problems[1]
    assert unread.packing == ""
