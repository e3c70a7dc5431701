"""A thousand pods of one scene at once, placed as kube-scheduler places them: one after another, bindings seen late."""

from __future__ import annotations

import asyncio
import json
import math
import random
import time
from collections import Counter, deque
from dataclasses import replace
from typing import Any

from fleet.digest import GpuDigest, NodeDigest, Slice
from fleet.mig import MigProfile
from fleet.scene import SceneId
from fleet.snapshot import Pod
from scheduler_extender import wire
from scheduler_extender.app import Extender
from scheduler_extender.cluster import Cluster
from scheduler_extender.fit import FITS
from scheduler_extender.prices import Prices
from scheduler_extender.state import DigestPoller
from tests.scheduler_extender.conftest import GB, digest, pod

PODS = 1000
SCENE = SceneId("robot")
ONE = MigProfile.parse("1g.10gb")


def node_digest(name: str, gpus: int, warm: bool) -> NodeDigest:
    cut = tuple(Slice("1g.10gb", start) for start in range(7))
    many = tuple(GpuDigest(f"{name}-{number}", "H100-80", slices=cut) for number in range(gpus))
    return replace(digest(name, {"robot": GB} if warm else {}), gpus=many)


async def burst(extender: Extender, nodes: dict[str, int], pods: int) -> dict[str, str]:
    """Place pods by the verbs' own bytes; the extender hears of each binding 100 pods later. Answers who went where."""
    seeded = random.Random(7)
    names = list(nodes)
    placed: dict[str, str] = {}
    unseen: deque[str] = deque()
    for number in range(pods):
        seeded.shuffle(names)
        uid = f"pod-{number}"
        fit = json.loads(extender.filter(asked(uid, names)))["NodeNames"]
        if not fit:
            break
        scores = {entry["Host"]: entry["Score"] for entry in json.loads(extender.prioritize(asked(uid, fit)))}
        placed[uid] = max(fit, key=scores.__getitem__)
        await asyncio.sleep(0)  # what comes after an answer
        unseen.append(uid)
        if len(unseen) > 100:
            bound = unseen.popleft()
            tell(extender, pod(bound, "robot", placed[bound]))
    assert len(extender.cluster.reservations) == len(unseen)
    for uid in unseen:
        tell(extender, pod(uid, "robot", placed[uid]))
    return placed


def asked(uid: str, names: list[str]) -> wire.Args:
    return wire.decode_args(json.dumps({"Pod": pod(uid, "robot"), "Nodes": None, "NodeNames": names}).encode())


def tell(extender: Extender, document: dict[str, Any]) -> None:
    for event in wire.decode_events(json.dumps({"type": "MODIFIED", "object": document}).encode()):
        extender.apply(event)


def test_no_slice_is_given_twice_and_no_reservation_stays() -> None:
    """18 nodes of 56 slices hold 1008 pods: the last ones must find the last slices, and the one after them none."""
    nodes = {f"gpu-{number}": 56 for number in range(18)}
    cluster = Cluster([], Prices())
    for name in nodes:
        cluster.apply_digest(name, node_digest(name, 8, name == "gpu-0"), time.monotonic())
    extender = Extender(cluster, DigestPoller(cluster, {}, 5.0, 1.0, time.monotonic))
    placed = asyncio.run(burst(extender, nodes, PODS + 9))
    assert len(placed) == sum(nodes.values()) == PODS + 8
    assert Counter(placed.values()) == nodes
    assert len(cluster.reservations) == 0
    assert cluster.reservations.expired == 0


def test_no_node_takes_more_than_its_share_of_a_scene() -> None:
    """One warm node could take all; beyond 16 it takes at most half of the scene's pods while others have room."""
    prices = Prices()
    cluster = Cluster([], prices)
    for number in range(4):
        name = f"gpu-{number}"
        cluster.apply_digest(name, node_digest(name, 143, number == 0), 0.0)
    names = [f"gpu-{number}" for number in range(4)]
    on_node: Counter[str] = Counter()
    for number in range(PODS):
        asked = Pod(f"pod-{number}", profiles=(ONE,), scenes=(SCENE,), scene_bytes={SCENE: GB})
        decision = cluster.decide(asked, names, number * 0.01)
        assert decision.verdict[names.index(decision.winner)] == FITS
        cluster.reserve(decision, number * 0.01)
        on_node[decision.winner] += 1
        bound = max(prices.hot_spot_pods, math.ceil(prices.hot_spot_share * (number + 1)))
        assert on_node.most_common(1)[0][1] <= bound + 1
    assert len(on_node) > 1
