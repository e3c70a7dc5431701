"""What we read of dynamic resource allocation: slices, claims and classes of devices (resource.k8s.io/v1)."""

from __future__ import annotations

from typing import Any

import msgspec

from kube.objects import Object, Projection, Quantity, Resource, Taint


class Counter(Projection):
    value: Quantity = 0


class CounterConsumption(Projection):
    """What a device takes of a counter set of its pool."""

    counter_set: str
    counters: dict[str, Counter] | None = None


class CounterSet(Projection):
    """What the devices of a pool share: only one slice of memory, say, of each number."""

    name: str
    counters: dict[str, Counter] | None = None


class Device(Projection):
    """A device of a ResourceSlice; an attribute is a dict with one of `string`, `int`, `bool`, `version`."""

    name: str
    attributes: dict[str, dict[str, Any]] | None = None
    capacity: dict[str, dict[str, Any]] | None = None
    consumes_counters: list[CounterConsumption] | None = None
    taints: list[Taint] | None = None


class ResourcePool(Projection):
    name: str
    generation: int = 0
    resource_slice_count: int = 1


class ResourceSliceSpec(Projection):
    driver: str
    pool: ResourcePool
    node_name: str = ""
    devices: list[Device] | None = None
    shared_counters: list[CounterSet] | None = None


class ResourceSlice(Object):
    spec: ResourceSliceSpec


class DeviceResult(Projection):
    """One device given to a claim."""

    request: str
    driver: str
    pool: str
    device: str
    admin_access: bool | None = None


class DeviceAllocation(Projection):
    results: list[DeviceResult] | None = None


class Allocation(Projection):
    devices: DeviceAllocation = msgspec.field(default_factory=DeviceAllocation)


class Consumer(Projection):
    resource: str
    name: str
    uid: str


class ResourceClaimStatus(Projection):
    allocation: Allocation | None = None
    reserved_for: list[Consumer] | None = None


class ResourceClaim(Object):
    spec: dict[str, Any] = msgspec.field(default_factory=dict)
    status: ResourceClaimStatus = msgspec.field(default_factory=ResourceClaimStatus)


class CelSelector(Projection):
    expression: str = ""


class DeviceSelector(Projection):
    cel: CelSelector | None = None


class DeviceClassSpec(Projection):
    selectors: list[DeviceSelector] | None = None
    extended_resource_name: str | None = None


class DeviceClass(Object):
    """Which devices a claim of the class may be given; pods may ask for it as for an extended resource (KEP-5004)."""

    spec: DeviceClassSpec = msgspec.field(default_factory=DeviceClassSpec)


RESOURCE_SLICES = Resource("resource.k8s.io/v1", "resourceslices", ResourceSlice, namespaced=False)
DEVICE_CLASSES = Resource("resource.k8s.io/v1", "deviceclasses", DeviceClass, namespaced=False)
RESOURCE_CLAIMS = Resource("resource.k8s.io/v1", "resourceclaims", ResourceClaim)
