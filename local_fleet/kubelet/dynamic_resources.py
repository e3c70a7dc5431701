"""What NVIDIA's DRA driver does on a node: it tells the slices as devices, and hands out those of a pod's claims."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec

from fleet.digest import GpuDigest, Slice
from kube import writes
from kube.connection import Connection
from kube.device_objects import RESOURCE_CLAIMS, RESOURCE_SLICES, ResourceClaim
from kube.errors import Refused
from kube.objects import Projection
from local_fleet.kubelet.devices import device_name
from local_fleet.kubelet.pod_spec import RunPod
from scheduler_extender.devices import DRIVER, holders_of


class _Claims(Projection):
    items: list[ResourceClaim]


def publish(connection: Connection, node: str, gpu: GpuDigest) -> None:
    """Tell the API server of a node's slices; those that were told before stand."""
    try:
        writes.create(connection, RESOURCE_SLICES, resource_slice(node, gpu))
    except Refused as error:
        if not error.conflict:
            raise


def withdraw(connection: Connection, node: str) -> None:
    """The node is gone, and its devices with it."""
    try:
        writes.delete(connection, RESOURCE_SLICES.path(None, _name(node)))
    except Refused as error:
        if not error.absent:
            raise


def resource_slice(node: str, gpu: GpuDigest) -> dict[str, Any]:
    """One ResourceSlice with every healthy slice as a device of type `mig`, as the driver tells static layouts."""
    return {
        "apiVersion": RESOURCE_SLICES.group_version,
        "kind": "ResourceSlice",
        "metadata": {"name": _name(node)},
        "spec": {
            "driver": DRIVER,
            "nodeName": node,
            "pool": {"name": node, "generation": 1, "resourceSliceCount": 1},
            "devices": [_device(gpu, cut) for cut in gpu.slices if cut.healthy],
        },
    }


def given_to(connection: Connection, pod: RunPod, node: str) -> list[str]:
    """Devices of this node that claims have reserved for a pod; raises KubeError."""
    body = connection.get(RESOURCE_CLAIMS.path(pod.metadata.namespace))
    return list(_given(msgspec.json.decode(body, type=_Claims).items, pod.metadata.uid, node))


def _given(claims: list[ResourceClaim], uid: str, node: str) -> Iterator[str]:
    for claim in claims:
        for (pool, device), holder in holders_of(claim).items():
            if holder == uid and pool == node:
                yield device


def _name(node: str) -> str:
    return f"{node}-{DRIVER}"


def _device(gpu: GpuDigest, cut: Slice) -> dict[str, Any]:
    texts = {"type": "mig", "profile": cut.profile, "parentUUID": gpu.uuid, "productName": gpu.model}
    attributes = {name: {"string": text} for name, text in texts.items()}
    return {"name": device_name(cut), "attributes": attributes, "capacity": {f"memorySlice{cut.start}": {"value": "1"}}}
