"""Whom preemption should take: who frees the place, is worth less than the pod, and takes the least warm bytes along.

kube-scheduler proposes victims by its own count of resources, blind to scenes. Its choice stands wherever ours would
not be certain to free as much: one victim replaces another only inside its own pool, whose pods are of one template.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from fleet.snapshot import Pod
from scheduler_extender.cluster import Cluster


@dataclass(frozen=True, slots=True)
class Candidate:
    """A node with the pods that must leave it, by UID; `pods` are those of them that were sent whole."""

    victims: tuple[str, ...]
    disruption_violations: int = 0  # of PodDisruptionBudgets
    pods: Mapping[str, Pod] = field(default_factory=dict)


def choose(pod: Pod, candidates: Mapping[str, Candidate], cluster: Cluster) -> dict[str, Candidate]:
    """The candidates to leave to kube-scheduler, with better victims where there are any.

    Left out are nodes that cannot take the pod whoever leaves, and nodes where nobody need leave: an empty list is an
    error to kube-scheduler. Of the rest those stay that violate the fewest budgets and take the least priority,
    kube-scheduler's own first questions, and among these the ones that lose the fewest warm bytes.
    """
    ranked: list[tuple[tuple[float, ...], str, Candidate]] = []
    for node, proposed in candidates.items():
        known = {**proposed.pods, **cluster.pods_on(node)}
        victims = _victims(pod, node, proposed, known, cluster)
        if victims:
            highest = max((known[uid].priority for uid in victims if uid in known), default=0)
            lost_bytes = sum(cluster.warm_bytes(known[uid]) for uid in victims if uid in known)
            rank = (proposed.disruption_violations, highest, lost_bytes)
            ranked.append((rank, node, replace(proposed, victims=victims)))
    best = min((rank for rank, _, _ in ranked), default=())
    return {node: candidate for rank, node, candidate in ranked if rank == best}


def _victims(
    pod: Pod, node: str, proposed: Candidate, known: Mapping[str, Pod], cluster: Cluster
) -> tuple[str, ...] | None:
    """Who must leave `node`; None where that would not help, empty where nobody need."""
    victims = list(dict.fromkeys(proposed.victims))
    spare = [other for other in known.values() if other.priority < pod.priority and other.uid != pod.uid]
    spare.sort(key=lambda other: (other.priority, cluster.warm_bytes(other), other.uid))
    reason = cluster.reason_without(pod, node, victims)
    while reason is not None:
        # By our count the proposal does not free enough: a reservation is in the way, or the list is empty.
        more = next((other for other in spare if other.uid not in victims and _holds_alike(other, pod)), None)
        if more is None or not reason.resolvable:
            return None
        victims.append(more.uid)
        reason = cluster.reason_without(pod, node, victims)
    for place, uid in enumerate(victims):
        out = known.get(uid)
        colder = next((other for other in spare if out is not None and _could_stand_in(other, out, victims)), None)
        if out is not None and colder is not None and cluster.warm_bytes(colder) < cluster.warm_bytes(out):
            victims[place] = colder.uid
    return tuple(victims)


def _holds_alike(other: Pod, pod: Pod) -> bool:
    """Whether `other` leaving frees anything that `pod` asks for."""
    return bool(set(other.profiles) & set(pod.profiles)) or (other.gpus > 0 and pod.gpus > 0)


def _could_stand_in(other: Pod, victim: Pod, victims: list[str]) -> bool:
    alike = (other.pool, other.namespace, other.profiles, other.gpus)
    same_template = bool(victim.pool) and alike == (victim.pool, victim.namespace, victim.profiles, victim.gpus)
    return same_template and other.priority <= victim.priority and other.uid not in victims
