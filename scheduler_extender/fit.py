"""Whether a pod fits a node, and why not."""

from __future__ import annotations

from enum import Enum

import numpy as np
from numpy.typing import NDArray

from fleet.snapshot import Pod
from scheduler_extender.node_table import NodeTable, ProfileColumns
from scheduler_extender.price_loops import any_short, any_too_small
from scheduler_extender.scene_table import Rows


class Reason(Enum):
    """Why a pod does not fit a node: the closed list. Resolvable means that pods leaving would cure it."""

    NO_FREE_SLICE = ("no_free_slice", True, "every slice of the profile is taken")
    NO_FREE_GPU = ("no_free_gpu", True, "every whole GPU is taken")
    NO_SUCH_PROFILE = ("no_such_profile", False, "no GPU has a slice of the profile, or such a device")
    TOO_FEW_SLICES = ("too_few_slices", False, "fewer slices of the profile exist than the pod asks for")
    SLICES_UNHEALTHY = ("slices_unhealthy", False, "too few slices of the profile are healthy")
    TOO_FEW_GPUS = ("too_few_gpus", False, "fewer healthy whole GPUs exist than the pod asks for")
    SHARE_TOO_SMALL = ("share_too_small", False, "a share of a GPU has less memory than the pod says it fills")
    NO_GPU_MEMORY = ("no_gpu_memory", True, "the pods that share the GPUs leave less memory than the pod fills")
    SCENES_EXCEED_CACHE = ("scenes_exceed_cache", False, "the pod's scenes are larger than the node's scene cache")

    def __init__(self, label: str, resolvable: bool, text: str) -> None:
        self.label = label
        self.resolvable = resolvable
        self.text = text


REASONS = tuple(Reason)
FITS = -1  # in the answer of `fits`; else an index into REASONS


def fits(pod: Pod, rows: Rows, table: NodeTable) -> NDArray[np.int8]:
    """[rows]: FITS, or the index of the first Reason why not.

    A node whose GPUs nobody told us of fits: kube-scheduler counts its resources without us.
    """
    verdict = np.full(len(rows), FITS, np.int8)

    def rule_out(where: NDArray[np.bool_], reason: Reason) -> None:
        verdict[where & (verdict == FITS)] = REASONS.index(reason)

    def count(kinds: list[ProfileColumns], asked: int, counts: NDArray[np.bool_]) -> None:
        if len(kinds) == 1 and not any_short(rows, counts, kinds[0].free, asked):
            return  # what is free exists and is healthy
        where = counts[rows]
        short = where & (_sum(kinds, "free", rows) < asked)
        existing = _sum(kinds, "existing", rows)
        rule_out(where & (existing == 0), Reason.NO_SUCH_PROFILE)
        rule_out(where & (existing < asked), Reason.TOO_FEW_SLICES)
        rule_out(where & (_sum(kinds, "healthy", rows) < asked), Reason.SLICES_UNHEALTHY)
        rule_out(short, Reason.NO_FREE_SLICE)

    for profile in sorted(set(pod.profiles)):
        columns = table.profiles.get(profile)
        count([columns] if columns else [], pod.profiles.count(profile), table.gpus_known)
    for device in sorted(set(pod.devices)):
        # A resource that no DeviceClass gives here may be some device plugin's: kube-scheduler counts it without us.
        if device in table.profiles:
            count([table.profiles[device]], pod.devices.count(device), table.partitioned)
    if pod.any_slice_gb:
        count(table.slices_of(pod.any_slice_gb), 1, table.gpus_known)
    if pod.gpus:
        known = table.gpus_known[rows]
        rule_out(known & (table.whole_gpus[rows] < pod.gpus), Reason.TOO_FEW_GPUS)
        rule_out(known & (table.whole_gpus_free[rows] < pod.gpus), Reason.NO_FREE_GPU)
        if pod.gpu_memory_bytes:
            rule_out(table.share_bytes[rows] * pod.gpus < pod.gpu_memory_bytes, Reason.SHARE_TOO_SMALL)
            rule_out(table.unclaimed_bytes[rows] < pod.gpu_memory_bytes, Reason.NO_GPU_MEMORY)
    if pod.scenes:
        # Only what is known counts here: a guess may price a node, never refuse it.
        needed_bytes = sum(table.scenes.bytes_of(scene) or pod.scene_bytes.get(scene, 0) for scene in pod.scenes)
        if any_too_small(rows, table.capacity_bytes, needed_bytes):
            capacity_bytes = table.capacity_bytes[rows]
            rule_out((capacity_bytes > 0) & (capacity_bytes < needed_bytes), Reason.SCENES_EXCEED_CACHE)
    return verdict


def _sum(kinds: list[ProfileColumns], figure: str, rows: Rows) -> NDArray[np.int32]:
    total: NDArray[np.int32] = np.zeros(len(rows), np.int32)
    for kind in kinds:
        total = total + getattr(kind, figure)[rows]
    return total
