"""Why a node won: a decision as plain values, every term of every node."""

from __future__ import annotations

import math
from collections import OrderedDict
from dataclasses import asdict
from typing import Any

import numpy as np

from scheduler_extender.cluster import Cluster
from scheduler_extender.decision import Decision

TERMS = ("time_to_ready", "fragmentation", "eviction", "crowding", "node")
MOST_NODES_KEPT = 200_000  # over all remembered decisions, some 120 bytes each


class Explanations:
    """The last decision of each pod, as far back as memory allows."""

    def __init__(self, most_nodes: int = MOST_NODES_KEPT) -> None:
        self._most_nodes = most_nodes
        self._nodes = 0
        self._by_uid: OrderedDict[str, Decision] = OrderedDict()

    def keep(self, decision: Decision) -> None:
        before = self._by_uid.pop(decision.pod.uid, None)
        self._nodes += len(decision.names) - (len(before.names) if before else 0)
        self._by_uid[decision.pod.uid] = decision
        while self._nodes > self._most_nodes and len(self._by_uid) > 1:
            _, oldest = self._by_uid.popitem(last=False)
            self._nodes -= len(oldest.names)

    def get(self, uid: str) -> Decision | None:
        return self._by_uid.get(uid)

    def of_pod(self, namespace: str, name: str) -> Decision | None:
        """The last decision for a pod of that name, whatever its UID."""
        wanted = (namespace, name)
        return next(
            (kept for kept in reversed(self._by_uid.values()) if (kept.pod.namespace, kept.pod.name) == wanted), None
        )


def explain(decision: Decision, cluster: Cluster) -> dict[str, Any]:
    """The decision whole: the pod as it was read, the prices, and a line per node."""
    pod = decision.pod
    held = cluster.reservations.get(pod.uid)
    return {
        "pod": {
            "uid": pod.uid,
            "name": pod.name,
            "namespace": pod.namespace,
            "pool": pod.pool,
            "profiles": [str(profile) for profile in pod.profiles],
            "gpus": pod.gpus,
            "packing": pod.packing,
            "scenes": list(pod.scenes),
            "expected_scenes": {scene: round(share, 4) for scene, share in decision.expected.items()},
            "problems": list(pod.problems),
        },
        "winner": decision.winner or None,
        "why": why(decision),
        "reserved": held.node if held else None,
        "prices": asdict(cluster.prices),
        "nodes": [line(decision, index) for index in range(len(decision.names))],
    }


def why(decision: Decision) -> str:
    """Why the winner won, in a sentence: against the next cheapest node, by the terms that made the difference."""
    if not decision.names:
        return "no node was sent"
    if not decision.winner:
        return "the pod fits no node"
    lines = best_lines(decision, 2)
    if len(lines) == 1 or lines[1]["total_s"] is None:
        return f"{decision.winner} is the only node where the pod fits"
    first, second = lines
    margin_s = second["total_s"] - first["total_s"]
    if margin_s <= 0:
        return f"{first['node']} costs {first['total_s']:.3f} s, {second['node']} just as much; the first one sent wins"
    terms = {term: second[f"{term}_s"] - first[f"{term}_s"] for term in TERMS}
    told = ", ".join(f"{term} {gain_s:+.3f} s" for term, gain_s in terms.items() if abs(gain_s) >= 0.0005)
    return f"{first['node']} costs {first['total_s']:.3f} s, {margin_s:.3f} s less than {second['node']} ({told})"


def best_lines(decision: Decision, most: int) -> list[dict[str, Any]]:
    """The cheapest nodes, cheapest first."""
    count = min(most, len(decision.names))
    if count == 0:
        return []
    cheapest = np.argpartition(decision.total_s, count - 1)[:count]
    return [line(decision, int(index)) for index in cheapest[np.argsort(decision.total_s[cheapest], kind="stable")]]


def line(decision: Decision, index: int) -> dict[str, Any]:
    """One node's terms; a total or an age that does not exist is null."""
    cost = decision.costs[index]
    reason = decision.reason(index)
    age_s = float(decision.age_s[index])
    return {
        "node": decision.names[index],
        "score": int(decision.scores[index]),
        "fits": reason is None,
        "reason": reason.label if reason else None,
        "tier": cost.tier,
        "time_to_ready_s": round(cost.time_to_ready_s, 6),
        "fragmentation_s": round(cost.fragmentation_s, 6),
        "eviction_s": round(cost.eviction_s, 6),
        "crowding_s": round(cost.crowding_s, 6),
        "node_s": round(cost.node_s, 6),
        "total_s": cost.total_s if reason is None else None,
        "trust": round(cost.trust, 6),
        "digest_age_s": None if math.isnan(age_s) else round(age_s, 3),
    }
