"""Devices that are cut when they are asked for: what overlaps what, and which one an allocator gives.

NVIDIA's DRA driver publishes every slice that a GPU could be cut into, one device each, and what each takes of the
GPU's counters (memory slices, multiprocessors, copy engines, ...). A device is free while the counters that are left
cover it. kube-scheduler gives the first one that is, in the order of publication, and tries another only where the
rest of a request fails: depth first, no scores (KEP-4815). `first_fit` does the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

MOST_STEPS = 100_000  # of one search: more than a node's devices need unless its counters are a puzzle


@dataclass(frozen=True, slots=True)
class Partition:
    """A device that a GPU can be cut into, or the GPU whole."""

    name: str  # the driver's own, `gpu-0-mig-1g.10gb-19-0`
    profile: str = ""  # `1g.10gb`; empty for the whole GPU
    start: int = 0  # first memory slice
    memory_slices: int = 8
    serves: tuple[str, ...] = ()  # extended resources whose DeviceClass selects it
    takes: tuple[float, ...] = ()  # of each of the GPU's counters, in their order
    healthy: bool = True
    holder: str = ""  # UID of the pod that has it

    @property
    def mask(self) -> int:
        """The memory slices that it covers, as bits."""
        return ((1 << self.memory_slices) - 1) << self.start


@dataclass(frozen=True, slots=True)
class Partitioned:
    """One GPU's devices in the order of publication, and the counters that they share."""

    counters: tuple[float, ...]
    devices: tuple[Partition, ...]

    def sick(self) -> Partitioned:
        """The same GPU with nothing to give."""
        return replace(self, devices=tuple(replace(device, healthy=False) for device in self.devices))


class Cutting:
    """What is left of the counters of a node's GPUs while devices are given and taken back."""

    def __init__(self, gpus: Sequence[Partitioned]) -> None:
        self.gpus = gpus
        self._left = [list(gpu.counters) for gpu in gpus]
        self.holders: dict[tuple[int, int], str] = {}  # (GPU, device) -> who has it
        for index, gpu in enumerate(gpus):
            for place, device in enumerate(gpu.devices):
                if device.holder:
                    self.give(index, place, device.holder)

    def give(self, gpu: int, place: int, holder: str) -> None:
        """Hand a device out, whether or not it is free: what exists exists."""
        self.holders[gpu, place] = holder
        for counter, amount in enumerate(self.gpus[gpu].devices[place].takes):
            self._left[gpu][counter] -= amount

    def take_back(self, gpu: int, place: int) -> None:
        del self.holders[gpu, place]
        for counter, amount in enumerate(self.gpus[gpu].devices[place].takes):
            self._left[gpu][counter] += amount

    def is_free(self, gpu: int, place: int) -> bool:
        """Whether a device can be given: healthy, with nobody, and the counters cover it."""
        device = self.gpus[gpu].devices[place]
        if not device.healthy or (gpu, place) in self.holders:
            return False
        return all(left >= amount for left, amount in zip(self._left[gpu], device.takes, strict=True))

    def mask(self, gpu: int) -> int:
        """The memory slices of a GPU that are taken, as bits."""
        mask = 0
        for (index, place), _ in self.holders.items():
            if index == gpu:
                mask |= self.gpus[gpu].devices[place].mask
        return mask

    def first_fit(self, asks: Sequence[str], holder: str) -> list[tuple[int, int]] | None:
        """Give one device for each ask (an extended resource), depth first in the order of publication.

        The answer is what was given, or None, with nothing given, where the asks cannot all be met.
        """
        steps = MOST_STEPS
        given: list[tuple[int, int]] = []

        def search(index: int) -> bool:
            nonlocal steps
            if index == len(asks):
                return True
            # Like asks are alike: a device before the one that the last of them got was tried for that one already.
            after = given[-1] if index and asks[index] == asks[index - 1] else (-1, -1)
            for gpu, partitioned in enumerate(self.gpus):
                for place, device in enumerate(partitioned.devices):
                    if (gpu, place) <= after or asks[index] not in device.serves or not self.is_free(gpu, place):
                        continue
                    steps -= 1
                    self.give(gpu, place, holder)
                    given.append((gpu, place))
                    if search(index + 1):
                        return True
                    self.take_back(*given.pop())
                    if steps <= 0:
                        return False
            return False

        return given if search(0) else None

    def most(self, ask: str) -> int:
        """How many devices for one ask the GPUs still hold."""
        return sum(
            most_of(gpu, ask, self._left[index], frozenset(place for at, place in self.holders if at == index))
            for index, gpu in enumerate(self.gpus)
        )


def most_of(
    gpu: Partitioned,
    ask: str,
    left: Sequence[float],
    held: frozenset[int] = frozenset(),
    sick_too: bool = False,
) -> int:
    """How many devices for one ask `left` of a GPU's counters covers: small ones first, the most where devices nest."""
    serving = [
        device
        for place, device in enumerate(gpu.devices)
        if ask in device.serves and place not in held and (device.healthy or sick_too)
    ]
    remaining = list(left)
    count = 0
    for device in sorted(serving, key=lambda device: device.memory_slices):
        if all(have >= amount for have, amount in zip(remaining, device.takes, strict=True)):
            remaining = [have - amount for have, amount in zip(remaining, device.takes, strict=True)]
            count += 1
    return count
