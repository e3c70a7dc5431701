"""The cluster at one moment: nodes with their GPUs, slices and scene caches, and pods with what they ask for.

A Snapshot is a value: whoever keeps one never meets half of a change.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache

from fleet.digest import NodeDigest, PodDigest, SceneCache, Slice
from fleet.labels import GPU_RESOURCE
from fleet.mig import MigError, MigProfile
from fleet.partitions import Cutting, Partitioned
from fleet.scene import SceneId


@dataclass(frozen=True, slots=True)
class Gpu:
    """A GPU and the slices cut on it; a GPU without slices is given away whole.

    Where the driver cuts when it is asked, `partitions` are all devices that it could be, and `slices` say nothing.
    """

    uuid: str
    model: str
    healthy: bool = True
    slices: tuple[Slice, ...] = ()
    partitions: Partitioned | None = None

    def sick(self) -> Gpu:
        """The same GPU with nothing to give."""
        return replace(self, healthy=False, partitions=self.partitions and self.partitions.sick())


@dataclass(frozen=True, slots=True)
class Sharing:
    """How the whole GPUs of a node are shared, as GPU Feature Discovery labels it."""

    strategy: str  # time-slicing, mps
    replicas: int  # shares of a GPU
    gpus: int
    gpu_memory_bytes: int  # of one GPU; 0 where the label does not say

    @property
    def share_bytes(self) -> float:
        """What one pod may use of a GPU: MPS holds it to its part, time slices may fill it and crowd each other."""
        return self.gpu_memory_bytes / (self.replicas if self.strategy == "mps" else 1)


@dataclass(frozen=True, slots=True)
class Pod:
    """A pod as far as placement sees it: what it asks for and where it is bound."""

    uid: str
    name: str = ""
    namespace: str = ""
    node: str = ""  # empty until it is bound
    pool: str = ""
    profiles: tuple[MigProfile, ...] = ()  # one per slice that it asks for
    gpus: int = 0  # whole GPUs, or shares of them
    devices: tuple[str, ...] = ()  # extended resources of other names, one per device that it asks for
    any_slice_gb: int = 0  # one slice more, of any profile with at least so much memory; 0 for none
    gpu_memory_bytes: int = 0  # what its containers may fill; 0 where they do not say
    scenes: tuple[SceneId, ...] = ()
    scene_bytes: Mapping[str, int] = field(default_factory=dict)  # as its annotation says, where it does
    finished: bool = False  # phase Succeeded or Failed: it holds nothing any more
    ready: bool = False  # its scenes are loaded
    problems: tuple[str, ...] = ()  # what could not be read of it, a sentence each
    priority: int = 0  # of its PriorityClass
    packing: str = ""  # `pack`, `spread`, or empty: as the prices of everybody say
    has_wishes: bool = False  # preferred nodes, claims or volumes, by which kube-scheduler tells nodes apart

    @property
    def holds(self) -> bool:
        """Whether it takes a place on its node."""
        return bool(self.node) and not self.finished

    @property
    def asks(self) -> tuple[str, ...]:
        """The extended resources that it asks for, one per device, like ones together."""
        return (*(profile.resource for profile in self.profiles), *(GPU_RESOURCE,) * self.gpus, *self.devices)


@dataclass(frozen=True, slots=True)
class Node:
    """A node as its last digest described it; `seen_s` is None until there was one."""

    name: str
    gpus: tuple[Gpu, ...] = ()
    scene_cache: SceneCache | None = None
    pods: tuple[PodDigest, ...] = ()
    seen_s: float | None = None  # on the reader's clock
    sharing: Sharing | None = None

    @classmethod
    def from_digest(cls, name: str, digest: NodeDigest, seen_s: float) -> Node:
        """The node that `digest` describes; `name` wins over what the digest calls itself."""
        gpus = tuple(Gpu(gpu.uuid, gpu.model, gpu.healthy, gpu.slices) for gpu in digest.gpus)
        return cls(name, gpus, digest.scene_cache, digest.pods, seen_s)

    @property
    def resident(self) -> frozenset[str]:
        """Scenes in the memory of any pod of this node."""
        return frozenset(scene.id for pod in self.pods for scene in pod.resident)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Nodes by name and pods by UID."""

    nodes: Mapping[str, Node] = field(default_factory=dict)
    pods: Mapping[str, Pod] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Occupancy:
    """Who takes what on one node: `cuts` are its slices as (GPU index, slice), `holders` their UIDs, `` where free."""

    cuts: tuple[tuple[int, Slice], ...]
    holders: tuple[str, ...]
    whole_gpus: int  # healthy GPUs that are given away whole
    whole_gpus_used: int
    single: MigProfile | None  # what `nvidia.com/gpu` means on a node whose every slice is of one profile

    def free(self, profile: MigProfile) -> list[tuple[int, Slice]]:
        """Healthy slices of a profile that nobody takes, in the order in which a driver lists them."""
        pairs = zip(self.cuts, self.holders, strict=True)
        return [
            cut for cut, holder in pairs if not holder and cut[1].healthy and parsed_profile(cut[1].profile) == profile
        ]


@lru_cache(4096)  # texts of others: bounded
def parsed_profile(text: str) -> MigProfile | None:
    """The profile that a digest names; None where no GPU has it."""
    try:
        return MigProfile.parse(text)
    except MigError:
        return None


def _single_profile(node: Node) -> MigProfile | None:
    """The profile behind `nvidia.com/gpu` under the device plugin's strategy `single`: all GPUs cut, all alike."""
    profiles = {cut.profile for gpu in node.gpus for cut in gpu.slices}
    if len(profiles) != 1 or not all(gpu.slices for gpu in node.gpus):
        return None
    return parsed_profile(profiles.pop())


def occupancy(node: Node, pods: Iterable[Pod], departed: frozenset[str] = frozenset()) -> Occupancy:
    """Who takes what on `node`: the digest's word united with the pods bound (or reserved) there, nobody twice.

    A digest lags behind binding and behind deletion. So a pod that is bound and not in the digest yet takes the first
    free slice of its profile, as a driver that allocates in order does; `departed` are the UIDs of deleted pods, whose
    slices are free whatever the digest still says. A slice whose pod nobody knows is taken.
    """
    cuts = [
        (index, cut if gpu.healthy else replace(cut, healthy=False))
        for index, gpu in enumerate(node.gpus)
        if gpu.partitions is None
        for cut in gpu.slices
    ]
    holders = ["" if cut.pod_uid in departed else cut.pod_uid for _, cut in cuts]
    single = _single_profile(node)
    held: dict[str, list[MigProfile | None]] = {}  # UID -> the profiles of its slices
    free: dict[MigProfile | None, deque[int]] = {}  # profile -> places in `cuts`, in the driver's order
    for place, ((_, cut), holder) in enumerate(zip(cuts, holders, strict=True)):
        profile = parsed_profile(cut.profile)
        if holder:
            held.setdefault(holder, []).append(profile)
        elif cut.healthy:
            free.setdefault(profile, deque()).append(place)
    whole_gpus_used = 0
    for pod in pods:
        wanted = list(pod.profiles)
        if single is None:
            whole_gpus_used += pod.gpus
        else:
            wanted += [single] * pod.gpus
        for profile in held.get(pod.uid, ()):
            if profile in wanted:
                wanted.remove(profile)
        for missing in wanted:
            if free.get(missing):
                holders[free[missing].popleft()] = pod.uid
    whole_gpus = sum(1 for gpu in node.gpus if gpu.healthy and not gpu.slices and gpu.partitions is None)
    if node.sharing is not None:
        whole_gpus = (whole_gpus if node.gpus else node.sharing.gpus) * node.sharing.replicas
    return Occupancy(tuple(cuts), tuple(holders), whole_gpus, whole_gpus_used, single)


def cutting(node: Node, pods: Iterable[Pod], departed: frozenset[str] = frozenset()) -> Cutting | None:
    """Who holds what of the GPUs that are cut when they are asked for; None where the node has none.

    As in `occupancy` the word of claims is united with the pods bound (or reserved) there: one whose claim is not seen
    yet gets what the allocator would give it.
    """
    gpus = [gpu.partitions if gpu.partitions is not None else Partitioned((), ()) for gpu in node.gpus]
    if not any(gpu.devices for gpu in gpus):
        return None
    cut = Cutting(gpus)
    for (gpu, place), holder in list(cut.holders.items()):
        if holder in departed:
            cut.take_back(gpu, place)
    served = {name for gpu in gpus for device in gpu.devices for name in device.serves}
    for pod in pods:
        if pod.uid not in cut.holders.values():
            cut.first_fit([ask for ask in pod.asks if ask in served], pod.uid)
    return cut
