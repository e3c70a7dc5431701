"""GPUs and who holds their slices, as ResourceSlices and ResourceClaims of NVIDIA's DRA driver say. No clock, no I/O.

The driver publishes a MIG device that exists with its profile, the UUID of its GPU and a capacity `memorySlice<n>` for
each memory slice that it covers. Devices that are cut when they are asked for overlap each other and carry none of
these capacities: kube-scheduler alone counts them, so they are left out.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from fleet.digest import Slice
from fleet.snapshot import Gpu
from kube.objects import Device, ResourceClaim, ResourceSlice

DRIVER = "gpu.nvidia.com"
_MEMORY_SLICE = re.compile(r"memorySlice([0-7])")

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


def gpus_of(slices: Iterable[ResourceSlice], holders: Mapping[DeviceKey, str]) -> tuple[Gpu, ...]:
    """The GPUs of one node's ResourceSlices, whole ones without slices."""
    of_driver = [found for found in slices if found.spec.driver == DRIVER]
    newest: dict[str, int] = {}
    for found in of_driver:
        pool = found.spec.pool
        newest[pool.name] = max(pool.generation, newest.get(pool.name, pool.generation))
    models: dict[str, str] = {}
    sick: set[str] = set()
    cuts: dict[str, list[Slice]] = {}
    for found in of_driver:
        pool = found.spec.pool
        if pool.generation != newest[pool.name]:
            continue  # what the driver said before
        for device in found.spec.devices or ():
            uuid = _text(device, "uuid")
            cut = _slice(device, holders.get((pool.name, device.name), ""))
            if cut is not None:
                uuid = _text(device, "parentUUID")
                cuts.setdefault(uuid, []).append(cut)
            elif _text(device, "type") != "gpu":
                continue
            elif not _healthy(device):
                sick.add(uuid)
            models.setdefault(uuid, _text(device, "productName"))
    return tuple(
        Gpu(uuid, model, uuid not in sick, tuple(sorted(cuts.get(uuid, ()), key=lambda cut: cut.start)))
        for uuid, model in sorted(models.items())
    )


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
