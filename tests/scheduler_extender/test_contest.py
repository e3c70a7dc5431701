"""Who is left out of filter's answer could not have won, and nobody is where that cannot be known."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler_extender import wire
from scheduler_extender.app import Extender
from scheduler_extender.cluster import Cluster
from scheduler_extender.contest import FEW, POINTS_PER_SCORE, TAINT_POINTS, Contest
from scheduler_extender.explanation import explain
from scheduler_extender.journal import Journal, RecordedCluster, journal_lines, replay
from scheduler_extender.prices import Prices
from scheduler_extender.state import DigestPoller
from tests.scheduler_extender.conftest import GB, digest, pod

WEIGHT = 15
NAMES = [f"gpu-{number:03d}" for number in range(150)]
WARM = NAMES[40:43]
PLUGINS = (1, 1, 1, 2, 2)  # weights of those that always have their say


@given(
    st.lists(st.integers(0, 10), min_size=2, max_size=40),
    st.integers(1, 40),
    st.booleans(),
    st.integers(0, 1 << 32),
)
def test_whoever_wins_is_named(drawn: list[int], weight: int, tainted: bool, seed: int) -> None:
    """kube-scheduler's sum with any points of its plugins, drawn from their ends as often as between them."""
    contest = Contest(weight, taints_known=True)
    contest.set_avoided("gpu-1", tainted)
    scores = np.array(drawn, np.int64)
    named = contest.contenders(scores)
    if named is None:
        return
    assert named.sum() >= 2
    random = np.random.default_rng(seed)
    plugins = (*PLUGINS, TAINT_POINTS // 100) if tainted else PLUGINS
    for _ in range(20):
        points = random.choice([0, 0, 100, 100, int(random.integers(0, 101))], (len(plugins), len(drawn)))
        total = POINTS_PER_SCORE * weight * scores + np.array(plugins) @ points
        assert named[np.flatnonzero(total == total.max())].all()


def asked(document: dict[str, Any], names: list[str]) -> wire.Args:
    return wire.decode_args(json.dumps({"Pod": document, "Nodes": None, "NodeNames": names}).encode())


def made(contest: Contest, cluster: Cluster | None = None) -> Extender:
    cluster = cluster or Cluster([], Prices())
    for name in NAMES:
        cluster.apply_digest(name, digest(name, {"robot": GB} if name in WARM else {}), 0.0)
    return Extender(cluster, DigestPoller(cluster, {}, 5.0, 1.0, lambda: 0.0), lambda: 0.0, contest=contest)


def named(extender: Extender, document: dict[str, Any], names: list[str] = NAMES) -> list[str]:
    answer: list[str] = json.loads(extender.filter(asked(document, names)))["NodeNames"]
    return answer


def scored(extender: Extender, document: dict[str, Any], names: list[str]) -> dict[str, int]:
    return {entry["Host"]: entry["Score"] for entry in json.loads(extender.prioritize(asked(document, names)))}


async def test_of_many_nodes_those_are_named_that_can_win() -> None:
    told, silent = made(Contest(WEIGHT, taints_known=True)), made(Contest())
    document = pod("uid-1", "robot")
    assert named(silent, document) == NAMES
    assert named(told, document) == WARM  # a fetch of ten seconds is more than all plugins make good
    by_all, by_named = scored(silent, document, NAMES), scored(told, document, WARM)
    assert by_named == {name: by_all[name] for name in WARM}
    assert told.cluster.reservations.get("uid-1").node in WARM  # type: ignore[union-attr]
    kept = told.explanations.get("uid-1")
    assert kept is not None
    assert kept.winner in WARM
    assert [line["node"] for line in explain(kept, told.cluster)["nodes"]] == NAMES  # whoever was left out is explained
    await asyncio.sleep(0)


async def test_a_change_before_prioritize_is_reckoned_with() -> None:
    extender = made(Contest(WEIGHT, taints_known=True))
    document = pod("uid-1", "robot")
    left = named(extender, document)
    extender.cluster.apply_digest(left[0], digest(left[0], generation=2), 0.0)  # its scene is gone
    extender.cluster.settle()
    scores = scored(extender, document, left)
    assert scores.keys() == set(left)
    assert min(scores, key=scores.__getitem__) == left[0]
    await asyncio.sleep(0)


def wishing(**spec: Any) -> dict[str, Any]:
    document = pod("uid-1", "robot")
    document["spec"] |= spec
    return document


@pytest.mark.parametrize(
    "document",
    [
        wishing(affinity={"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 1}]}}),
        wishing(resourceClaims=[{"name": "gpu", "resourceClaimName": "mine"}]),
        wishing(volumes=[{"name": "data", "persistentVolumeClaim": {"claimName": "data"}}]),
        wishing(volumes=[{"name": "data", "ephemeral": {"volumeClaimTemplate": {}}}]),
    ],
)
async def test_all_are_named_to_a_pod_with_wishes_of_its_own(document: dict[str, Any]) -> None:
    assert named(made(Contest(WEIGHT, taints_known=True)), document) == NAMES
    await asyncio.sleep(0)


async def test_wishes_that_tell_no_nodes_apart_change_nothing() -> None:
    required = {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": []}}}
    document = wishing(affinity=required, volumes=[{"name": "cache", "hostPath": {"path": "/cache"}}])
    assert named(made(Contest(WEIGHT, taints_known=True)), document) == WARM
    await asyncio.sleep(0)


async def test_of_few_nodes_all_are_named() -> None:
    extender = made(Contest(WEIGHT, taints_known=True))
    assert named(extender, pod("uid-1", "robot"), NAMES[:FEW]) == NAMES[:FEW]
    await asyncio.sleep(0)


async def test_nodes_to_be_avoided_let_more_nodes_win() -> None:
    known, unknown = Contest(WEIGHT, taints_known=True), Contest(WEIGHT)
    scores = np.array([10, 6, 5, 4, 3, 0] * 20, np.int64)
    assert sorted(set(scores[known.contenders(scores)].tolist())) == [6, 10]
    assert sorted(set(scores[unknown.contenders(scores)].tolist())) == [4, 5, 6, 10]
    known.set_avoided("gpu-7", True)
    assert sorted(set(scores[known.contenders(scores)].tolist())) == [4, 5, 6, 10]
    known.set_avoided("gpu-7", False)
    assert sorted(set(scores[known.contenders(scores)].tolist())) == [6, 10]


async def test_decisions_about_named_nodes_replay(tmp_path: Path) -> None:
    path = tmp_path / "decisions.jsonl"
    recorded = RecordedCluster(Journal(path, 1 << 30).write, [], Prices(), 30.0)
    extender = made(Contest(WEIGHT, taints_known=True), recorded)
    for number in range(3):
        document = pod(f"uid-{number}", "robot")
        scored(extender, document, named(extender, document))
        await asyncio.sleep(0)
    replayed = list(replay(journal_lines(path)))
    assert [each.difference for each in replayed] == ["", "", ""]
    assert all(len(each.decision.names) == len(NAMES) for each in replayed)
