"""The GPUs of every node, of two who tell of them: the digest of its exporter, and the API server's objects."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from fleet.snapshot import Gpu

Gpus = tuple[Gpu, ...]


@dataclass(slots=True)
class NodeGpus:
    """By node, as either says; `of` has them together."""

    seen: dict[str, Gpus] = field(default_factory=dict)  # as the digest says
    inventory: dict[str, Gpus] = field(default_factory=dict)  # as the API server knows them

    def of(self, name: str) -> Gpus:
        return _merged(self.seen.get(name, ()), self.inventory.get(name, ()))


def _merged(seen: Gpus, inventory: Gpus) -> Gpus:
    """The GPUs that a digest saw with holders that only the API server knows; the latter's GPUs where it saw none.

    GPUs that are cut when they are asked for are the API server's alone, but for their health.
    """
    if any(gpu.partitions is not None for gpu in inventory):
        sick = {gpu.uuid for gpu in seen if not gpu.healthy}
        return tuple(gpu.sick() if gpu.uuid in sick else gpu for gpu in inventory)
    if not seen or not inventory:
        return seen or inventory
    holders = {
        (gpu.uuid, cut.profile, cut.start): cut.pod_uid for gpu in inventory for cut in gpu.slices if cut.pod_uid
    }
    return tuple(
        replace(
            gpu,
            slices=tuple(
                replace(cut, pod_uid=cut.pod_uid or holders.get((gpu.uuid, cut.profile, cut.start), ""))
                for cut in gpu.slices
            ),
        )
        for gpu in seen
    )
