"""GPUs and who holds their slices, as ResourceSlices and ResourceClaims of NVIDIA's DRA driver say. No clock, no I/O.

The driver publishes a MIG device that exists with its profile, the UUID of its GPU and a capacity `memorySlice<n>` for
each memory slice that it covers. Devices that are cut when they are asked for are all published and overlap each other:
each takes its part of the counters that the devices of a GPU share, memory slices among them.

Of a pool only the newest generation counts, and nothing of it before all its slices are there, as for kube-scheduler.
Pools are taken by name and slices of a pool by name: kube-scheduler keeps the driver's order inside a slice alone.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from fleet.digest import Slice
from fleet.labels import (
    DEVICE_CLASS_RESOURCE_PREFIX,
    GPU_COUNT_LABEL,
    GPU_MEMORY_LABEL,
    GPU_REPLICAS_LABEL,
    GPU_SHARING_LABEL,
)
from fleet.partitions import Partition, Partitioned
from fleet.snapshot import Gpu, Sharing
from kube.device_objects import CounterSet, Device, DeviceClass, ResourceClaim, ResourceSlice
from kube.objects import quantity
from scheduler_extender.selectors import DeviceFacts, selects_all

DRIVER = "gpu.nvidia.com"
_MEMORY_SLICE = re.compile(r"memorySlice([0-7])")
_MEMORY_SLICE_COUNTER = re.compile(r"memory-slice-([0-7])|memorySlice([0-7])")

DeviceKey = tuple[str, str]  # (resource pool, device)


def holders_of(claim: ResourceClaim) -> dict[DeviceKey, str]:
    """Who holds each device of a claim: the UID of the pod, or the claim's own while no pod is named."""
    allocation = claim.status.allocation
    if allocation is None:
        return {}
    pods = [user.uid for user in claim.status.reserved_for or () if user.resource == "pods"]
    holder = pods[0] if pods else claim.metadata.uid
    return {
        (result.pool, result.device): holder
        for result in allocation.devices.results or ()
        if result.driver == DRIVER and not result.admin_access  # one that only looks takes nothing
    }


@dataclass(frozen=True, slots=True)
class Served:
    """A DeviceClass that pods can ask for by a resource name (KEP-5004), and what it selects."""

    resources: tuple[str, ...]
    selects: Callable[[DeviceFacts], bool]


def read_class(found: DeviceClass) -> Served:
    """A DeviceClass; raises SelectorError where its selectors are not understood."""
    expressions = [selector.cel.expression for selector in found.spec.selectors or () if selector.cel is not None]
    named = found.spec.extended_resource_name
    resources = (DEVICE_CLASS_RESOURCE_PREFIX + found.metadata.name, *((named,) if named else ()))
    return Served(resources, selects_all(expressions))


def gpus_of(
    slices: Iterable[ResourceSlice], holders: Mapping[DeviceKey, str], classes: Sequence[Served] = ()
) -> tuple[Gpu, ...]:
    """The GPUs of one node's ResourceSlices, whole ones without slices; `classes` say what each partition serves."""
    gpus: dict[str, Gpu] = {}
    for pool in _whole_pools(slices):
        counter_sets = {found.name: found for of_pool in pool for found in of_pool.spec.shared_counters or ()}
        cut_on_demand: dict[str, list[tuple[CounterSet, Partition]]] = {}
        devices = [device for of_pool in pool for device in of_pool.spec.devices or ()]
        for device in devices:
            uuid = _text(device, "parentUUID") or _text(device, "uuid")
            kind = _text(device, "type")
            holder = holders.get((pool[0].spec.pool.name, device.name), "")
            cut = _slice(device, holder)
            counters = _counters_of(device, counter_sets)
            if not uuid or not (kind == "gpu" or cut is not None or counters is not None):
                continue  # of another kind, or we cannot tell what it takes: kube-scheduler alone counts it
            gpu = gpus.setdefault(uuid, Gpu(uuid, _text(device, "productName")))
            if counters is not None:
                partition = _partition(device, holder, counters, _serves(device, pool[0].spec.driver, classes))
                cut_on_demand.setdefault(uuid, []).append((counters, partition))
            elif cut is not None:
                gpus[uuid] = replace(gpu, slices=(*gpu.slices, cut))
            elif not _healthy(device):
                gpus[uuid] = replace(gpu, healthy=False)
        for uuid, found in cut_on_demand.items():
            amounts = tuple(quantity(counter.value) for counter in (found[0][0].counters or {}).values())
            partitions = Partitioned(amounts, tuple(partition for _, partition in found))
            gpus[uuid] = replace(gpus[uuid], slices=(), partitions=partitions)
    return tuple(replace(gpu, slices=tuple(sorted(gpu.slices, key=lambda cut: cut.start))) for gpu in gpus.values())


def _whole_pools(slices: Iterable[ResourceSlice]) -> Iterator[list[ResourceSlice]]:
    """The newest generation of each pool of which all slices are there."""
    pools: dict[str, list[ResourceSlice]] = {}
    for found in sorted(slices, key=lambda found: (found.spec.pool.name, found.metadata.name)):
        if found.spec.driver == DRIVER:
            of_pool = pools.setdefault(found.spec.pool.name, [])
            if of_pool and found.spec.pool.generation > of_pool[0].spec.pool.generation:
                of_pool.clear()  # what the driver said before
            if not of_pool or found.spec.pool.generation == of_pool[0].spec.pool.generation:
                of_pool.append(found)
    for of_pool in pools.values():
        if len(of_pool) >= of_pool[0].spec.pool.resource_slice_count:
            yield of_pool


def _counters_of(device: Device, counter_sets: Mapping[str, CounterSet]) -> CounterSet | None:
    """The counters that a device shares with others; None where it shares none, or those of several GPUs."""
    consumed = device.consumes_counters or []
    return counter_sets.get(consumed[0].counter_set) if len(consumed) == 1 else None


def _partition(device: Device, holder: str, counters: CounterSet, serves: tuple[str, ...]) -> Partition:
    consumed = (device.consumes_counters or [])[0].counters or {}
    names = list(counters.counters or {})
    covered = [int(match[1]) for name in consumed if (match := _MEMORY_SLICE_COUNTER.fullmatch(name))]
    return Partition(
        name=device.name,
        profile=_text(device, "profile"),
        start=min(covered, default=0),
        memory_slices=len(covered),
        serves=serves,
        takes=tuple(quantity(consumed[name].value) if name in consumed else 0.0 for name in names),
        healthy=_healthy(device),
        holder=holder,
    )


def _serves(device: Device, driver: str, classes: Sequence[Served]) -> tuple[str, ...]:
    facts = DeviceFacts(
        driver,
        _by_domain(device.attributes, driver, lambda value: next(iter(value.values()), None)),
        _by_domain(device.capacity, driver, lambda value: quantity(value.get("value", 0))),
    )
    return tuple(name for served in classes if served.selects(facts) for name in served.resources)


def _by_domain(
    facts: Mapping[str, dict[str, Any]] | None, driver: str, read: Callable[[dict[str, Any]], Any]
) -> dict[str, dict[str, Any]]:
    """A name without a domain is one of the driver's own."""
    found: dict[str, dict[str, Any]] = {}
    for name, value in (facts or {}).items():
        domain, slash, local = name.rpartition("/")
        found.setdefault(domain if slash else driver, {})[local] = read(value)
    return found


def sharing_of(labels: Mapping[str, str]) -> Sharing | None:
    """How a node's GPUs are shared, as GPU Feature Discovery labels it; None where they are not."""
    strategy = labels.get(GPU_SHARING_LABEL, "none")
    replicas, gpus, memory_mib = (
        int(text) if (text := labels.get(name, "")).isascii() and text.isdigit() and len(text) <= 9 else 0
        for name in (GPU_REPLICAS_LABEL, GPU_COUNT_LABEL, GPU_MEMORY_LABEL)
    )
    if strategy not in ("time-slicing", "mps") or replicas < 2:
        return None
    return Sharing(strategy, replicas, gpus, memory_mib << 20)


def _slice(device: Device, holder: str) -> Slice | None:
    starts = [int(match[1]) for name in device.capacity or () if (match := _MEMORY_SLICE.fullmatch(name))]
    if _text(device, "type") != "mig" or not starts:
        return None
    return Slice(_text(device, "profile"), min(starts), _healthy(device), holder)


def _healthy(device: Device) -> bool:
    return not any(taint.effect in ("NoSchedule", "NoExecute") for taint in device.taints or ())


def _text(device: Device, name: str) -> str:
    """A text attribute; the driver's own names have no domain before them."""
    value = (device.attributes or {}).get(name, {}).get("string", "")
    return value if isinstance(value, str) else ""
