"""Reserved, on-demand, spot: how many pods of each, and what an hour of them costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from autoscaler.pool import CapacityType


def split(replicas: int, types: Sequence[CapacityType]) -> dict[str, int]:
    """Pods by type, the cheapest filled first; a type without `max_replicas` takes the rest.

    What no type has room for is not in the answer: the sum is then below `replicas`.
    """
    left, counts = replicas, {}
    for kind in by_price(types):
        take = left if kind.max_replicas is None else min(left, kind.max_replicas)
        counts[kind.name] = take
        left -= take
    return counts


def by_price(types: Sequence[CapacityType]) -> list[CapacityType]:
    """What is paid whether it is used or not comes first, then the cheaper."""
    return sorted(types, key=lambda kind: (not kind.reserved, kind.price_per_hour, kind.name))


def cost_per_hour(counts: Mapping[str, int], types: Sequence[CapacityType]) -> float:
    """Money for one hour: reserved types whole, the others by pod."""
    return sum(
        kind.price_per_hour * (kind.max_replicas or 0 if kind.reserved else counts.get(kind.name, 0)) for kind in types
    )


def rank(name: str, types: Sequence[CapacityType]) -> int:
    """Place of a type in the order of filling; a pod of an unknown type comes last, and so leaves first."""
    names = [kind.name for kind in by_price(types)]
    return names.index(name) if name in names else len(names)
