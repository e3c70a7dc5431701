"""Whose GPU time it is: slice-seconds that pools hold and that nobody holds, by capacity type, and their price.

A slice is one compute slice of a GPU: `nvidia.com/mig-3g.40gb` counts three, a whole GPU seven. What a node offers is
allocated to pools or idle at every moment, so the sums of both are the nodes' GPU time, exactly.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from fleet.labels import CAPACITY_TYPE_LABELS, GPU_RESOURCE, POOL_LABEL
from fleet.mig import MigError, MigProfile
from kube.objects import Node, Pod, Quantity, quantity

WHOLE_GPU = 7
LONGEST_S = 120.0  # between two looks: over a longer gap nobody knows who held what, and nothing is counted


@dataclass(frozen=True, slots=True, order=True)
class Holder:
    """Who holds slices; of an idle slice pool and namespace are empty."""

    pool: str
    namespace: str
    capacity_type: str


Moment = Mapping[Holder, float]  # slices


def moment_of(nodes: Iterable[Node], pods: Iterable[Pod]) -> dict[Holder, float]:
    """Who holds how many slices now. Slices that pods of no pool hold count as idle: those pods are not followed."""
    held: dict[Holder, float] = defaultdict(float)
    by_node: dict[str, list[Pod]] = defaultdict(list)
    for pod in pods:
        if pod.spec.node_name and not pod.finished:
            by_node[pod.spec.node_name].append(pod)
    for node in nodes:
        kind = capacity_type(node)
        used = 0.0
        for pod in by_node[node.metadata.name]:
            slices = slices_asked(pod)
            used += slices
            held[Holder(pod.metadata.label(POOL_LABEL), pod.metadata.namespace, kind)] += slices
        # A device plugin that stopped offers nothing, and the slices are held all the same.
        held[Holder("", "", kind)] += max(0.0, slices_of(node.status.allocatable or {}) - used)
    return {holder: slices for holder, slices in held.items() if slices > 0.0}


def slices_of(resources: Mapping[str, Quantity]) -> float:
    """Compute slices of extended resources; a profile that cannot be read counts as none."""
    slices = 0.0
    for name, count in resources.items():
        try:
            if name == GPU_RESOURCE:
                slices += WHOLE_GPU * quantity(count)
            elif (profile := MigProfile.from_resource(name)) is not None:
                slices += profile.compute_slices * quantity(count)
        except (MigError, ValueError):
            continue
    return slices


def slices_asked(pod: Pod) -> float:
    """Slices that a pod holds while it is bound to a node."""
    return sum(
        slices_of({**(container.resources.limits or {}), **(container.resources.requests or {})})
        for container in pod.spec.containers
        if container.resources is not None
    )


def capacity_type(node: Node | None) -> str:
    """Reserved, on-demand or spot, as the node says; empty where it does not."""
    labels = (node.metadata.labels or {}) if node is not None else {}
    return next((labels[name] for name in CAPACITY_TYPE_LABELS if name in labels), "")


@dataclass
class CostBook:
    """Slice-seconds so far. `prices` are of one slice for one hour, by capacity type."""

    prices: Mapping[str, float] = field(default_factory=dict)
    slice_seconds: dict[Holder, float] = field(default_factory=dict)
    _last: tuple[float, Moment] | None = None

    def advance(self, now_s: float, moment: Moment) -> None:
        """Count what was held since the last look; `moment` holds from now on."""
        if self._last is not None:
            since_s, before = self._last
            passed_s = now_s - since_s
            if 0.0 < passed_s <= LONGEST_S:
                for holder, slices in before.items():
                    self.slice_seconds[holder] = self.slice_seconds.get(holder, 0.0) + slices * passed_s
        self._last = (now_s, moment)

    def pause(self) -> None:
        """Another one counts from now on."""
        self._last = None

    def money(self) -> dict[Holder, float]:
        """What the slice-seconds cost, where their capacity type has a price."""
        return {
            holder: seconds / 3600.0 * self.prices[holder.capacity_type]
            for holder, seconds in self.slice_seconds.items()
            if holder.capacity_type in self.prices
        }
