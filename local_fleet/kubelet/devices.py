"""The device plugin of one node: which pod has which MIG slice."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from fleet.digest import GpuDigest
from fleet.labels import MIG_RESOURCE_PREFIX
from kube.objects import quantity
from local_fleet.kubelet.pod_spec import RunPod


class NoDevice(Exception):
    """A pod was bound to a node without a free slice of its profile: two writers, or a scheduler's mistake."""


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
        cuts = list(self._gpu.slices)
        uid = pod.metadata.uid
        taken: list[str] = []
        for profile, count in wanted_slices(pod).items():
            free = [at for at, cut in enumerate(cuts) if cut.profile == profile and cut.healthy and not cut.pod_uid]
            if len(free) < count:
                raise NoDevice(f"{count} slices of {profile} wanted, {len(free)} free")
            for at in free[:count]:
                cuts[at] = replace(cuts[at], pod_uid=uid)
                taken.append(f"{profile}@{cuts[at].start}")
        self._gpu = replace(self._gpu, slices=tuple(cuts))
        self.history += [(cut, uid) for cut in taken]

    def release(self, uid: str) -> None:
        """Free the slices of a pod."""
        cuts = tuple(replace(cut, pod_uid="") if cut.pod_uid == uid else cut for cut in self._gpu.slices)
        self._gpu = replace(self._gpu, slices=cuts)
