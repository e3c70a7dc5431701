"""The device plugin of one node: which pod has which MIG slice."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from fleet.digest import GpuDigest, Slice
from fleet.labels import MIG_RESOURCE_PREFIX
from kube.objects import quantity
from local_fleet.kubelet.pod_spec import RunPod


class NoDevice(Exception):
    """A pod was bound to a node without a free slice of its profile: two writers, or a scheduler's mistake."""


def device_name(cut: Slice) -> str:
    """A slice's name as a device of dynamic resource allocation: `mig-1g-10gb-0`."""
    return f"mig-{cut.profile.replace('.', '-').replace('+', '-')}-{cut.start}"


def wanted_slices(pod: RunPod) -> Counter[str]:
    """Slices that a pod asks for, by profile."""
    wanted: Counter[str] = Counter()
    for container in pod.spec.containers:
        limits = container.resources.limits if container.resources else None
        for name, amount in (limits or {}).items():
            if name.startswith(MIG_RESOURCE_PREFIX):
                wanted[name.removeprefix(MIG_RESOURCE_PREFIX)] += round(quantity(amount))
    return wanted


class Devices:
    """The slices of one GPU; `history` is every allocation so far as (slice, pod UID)."""

    def __init__(self, gpu: GpuDigest) -> None:
        self._gpu = gpu
        self.history: list[tuple[str, str]] = []

    def capacity(self) -> dict[str, str]:
        """The node's extended resources."""
        counts = Counter(cut.profile for cut in self._gpu.slices if cut.healthy)
        return {f"{MIG_RESOURCE_PREFIX}{profile}": str(count) for profile, count in counts.items()}

    def now(self) -> GpuDigest:
        """The GPU with the pod of each slice."""
        return self._gpu

    def allocate(self, pod: RunPod) -> None:
        """Give a pod the first free slices of its profiles; raises NoDevice and takes nothing."""
        self._take(self._free_for(pod), pod.metadata.uid)

    def _free_for(self, pod: RunPod) -> list[int]:
        free: list[int] = []
        for profile, count in wanted_slices(pod).items():
            found = [
                at
                for at, cut in enumerate(self._gpu.slices)
                if cut.profile == profile and cut.healthy and not cut.pod_uid
            ]
            if len(found) < count:
                raise NoDevice(f"{count} slices of {profile} wanted, {len(found)} free")
            free += found[:count]
        return free

    def allocate_named(self, pod: RunPod, names: Sequence[str]) -> None:
        """Give a pod the slices that its claims name, as `device_name` does; raises NoDevice and takes nothing."""
        if len(names) < (wanted := wanted_slices(pod).total()):
            raise NoDevice(f"{wanted} slices wanted, claims of the pod name {len(names)}")
        by_name = {device_name(cut): at for at, cut in enumerate(self._gpu.slices)}
        for name in names:
            if name not in by_name or self._gpu.slices[by_name[name]].pod_uid:
                raise NoDevice(f"device {name} is {'held by another pod' if name in by_name else 'unknown'}")
        self._take([by_name[name] for name in names], pod.metadata.uid)

    def _take(self, places: Sequence[int], uid: str) -> None:
        cuts = list(self._gpu.slices)
        for at in places:
            cuts[at] = replace(cuts[at], pod_uid=uid)
            self.history.append((f"{cuts[at].profile}@{cuts[at].start}", uid))
        self._gpu = replace(self._gpu, slices=tuple(cuts))

    def set_health(self, uid: str, healthy: bool) -> None:
        """Break or mend the slices of a pod, as a Xid error or a reset does."""
        cuts = tuple(replace(cut, healthy=healthy) if cut.pod_uid == uid else cut for cut in self._gpu.slices)
        self._gpu = replace(self._gpu, slices=cuts)

    def release(self, uid: str) -> None:
        """Free the slices of a pod."""
        cuts = tuple(replace(cut, pod_uid="") if cut.pod_uid == uid else cut for cut in self._gpu.slices)
        self._gpu = replace(self._gpu, slices=cuts)
