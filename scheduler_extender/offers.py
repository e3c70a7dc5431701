"""What one node has of every slice and device that a pod can ask for, and where its driver would take the next one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from fleet.labels import GPU_RESOURCE
from fleet.mig import PARTS, MigError, MigProfile, find_part
from fleet.partitions import Cutting, most_of
from fleet.snapshot import Node, Occupancy, parsed_profile

Ask = MigProfile | str  # a MIG profile, or the name of an extended resource
PART_INDEX = {name: index for index, name in enumerate(PARTS, start=1)}  # 0: a GPU without a layout here

# [parts + 1, masks]: memory slices that a mask leaves free.
FREE_SLICES = np.zeros((len(PARTS) + 1, 256), np.uint8)
for _name, _index in PART_INDEX.items():
    _slices = PARTS[_name].layout.memory_slices
    FREE_SLICES[_index, : 1 << _slices] = [_slices - mask.bit_count() for mask in range(1 << _slices)]


@dataclass(slots=True)
class Offer:
    """One kind of slice or device on one node; `before`, `after`: the GPU's mask without and with the next one."""

    existing: int = 0
    healthy: int = 0
    free: int = 0
    before: int = 0
    after: int = 0
    part: int = 0  # PART_INDEX of the GPU of the next one


def offers_of(node: Node, taken: Occupancy, cut: Cutting | None) -> dict[Ask, Offer]:
    """Every kind that the node has, by profile, or by resource name where that says no profile."""
    offers: dict[Ask, Offer] = dict(_of_slices(node, taken))
    if cut is not None:
        offers.update(_of_partitions(node, cut))
    return offers


def masks_of(node: Node, taken: Occupancy, cut: Cutting | None) -> list[tuple[int, int]]:
    """PART_INDEX and the memory slices that are taken, of each GPU that has slices or is cut when asked."""
    masks = _taken_masks(node, taken)
    if cut is not None:
        masks = [cut.mask(index) if gpu.partitions is not None else masks[index] for index, gpu in enumerate(node.gpus)]
    sliced = (bool(gpu.slices) or gpu.partitions is not None for gpu in node.gpus)
    return [
        (_part_index(gpu.model), mask) for gpu, mask, counts in zip(node.gpus, masks, sliced, strict=True) if counts
    ]


def _taken_masks(node: Node, taken: Occupancy) -> list[int]:
    masks = [0] * len(node.gpus)
    for (gpu, cut), holder in zip(taken.cuts, taken.holders, strict=True):
        if holder or not cut.healthy:
            masks[gpu] |= _bits(node.gpus[gpu].model, cut.profile, cut.start)
    return masks


def _of_slices(node: Node, taken: Occupancy) -> Iterator[tuple[MigProfile, Offer]]:
    """Slices that exist: the device plugin hands out the first free one."""
    masks = _taken_masks(node, taken)
    free: dict[str, list[tuple[int, int]]] = {}  # profile -> (GPU, its bits) of each free slice
    counts: dict[str, list[int]] = {}  # profile -> existing, healthy
    for (gpu, cut), holder in zip(taken.cuts, taken.holders, strict=True):
        count = counts.setdefault(cut.profile, [0, 0])
        count[0] += 1
        count[1] += cut.healthy
        if not holder and cut.healthy:
            bits = _bits(node.gpus[gpu].model, cut.profile, cut.start)
            free.setdefault(cut.profile, []).append((gpu, bits))
    for text, (existing, healthy) in counts.items():
        profile = parsed_profile(text)
        if profile is None:
            continue
        offer = Offer(existing, healthy)
        if text in free:
            gpu, bits = free[text][0]
            offer.free = len(free[text])
            offer.before, offer.after = masks[gpu], masks[gpu] | bits
            offer.part = _part_index(node.gpus[gpu].model)
        yield profile, offer


def _of_partitions(node: Node, cut: Cutting) -> Iterator[tuple[Ask, Offer]]:
    """Devices that are cut when they are asked for: the allocator gives the first one that is free."""
    served = dict.fromkeys(name for gpu in cut.gpus for device in gpu.devices for name in device.serves)
    for resource in served:
        offer = Offer(
            existing=sum(most_of(gpu, resource, gpu.counters, sick_too=True) for gpu in cut.gpus),
            healthy=sum(most_of(gpu, resource, gpu.counters) for gpu in cut.gpus),
            free=cut.most(resource),
        )
        first = cut.first_fit((resource,), "next")
        for gpu, place in first or ():
            cut.take_back(gpu, place)
            offer.before = cut.mask(gpu)
            offer.after = offer.before | cut.gpus[gpu].devices[place].mask
            offer.part = _part_index(node.gpus[gpu].model)
        yield _ask(resource), offer


@lru_cache(4096)
def _ask(resource: str) -> Ask:
    if resource == GPU_RESOURCE:
        return resource
    try:
        return MigProfile.from_resource(resource) or resource
    except MigError:
        return resource


@lru_cache(4096)  # what digests say is bounded here too
def _bits(gpu_model: str, profile_text: str, start: int) -> int:
    """The memory slices of a slice; 0 where the part or its profile is not known."""
    part, profile = find_part(gpu_model), parsed_profile(profile_text)
    role = part.role_of(profile) if part and profile else None
    return role.mask(start) if role and start in role.starts else 0


def _part_index(gpu_model: str) -> int:
    part = find_part(gpu_model)
    return PART_INDEX[part.name] if part else 0
