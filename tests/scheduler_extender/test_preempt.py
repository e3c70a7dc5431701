"""Preemption asked as kube-scheduler asks it: victims by UID, the coldest first, never an empty list."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from fleet.digest import PodDigest, ResidentScene, Slice
from tests.scheduler_extender.conftest import GB, Rig, digest, pod

Start = Callable[..., Rig]
Golden = Callable[[str], dict[str, Any]]


def full_node(name: str, warm: dict[str, int], free: int = 0) -> Any:
    """A node whose slices are all taken by pods that hold so many gigabytes."""
    cut = [Slice("1g.10gb", start, True, uid) for start, uid in enumerate(warm)]
    cut += [Slice("1g.10gb", len(cut) + number) for number in range(free)]
    holding = tuple(
        PodDigest(uid, "pool-1", 10 * GB, (ResidentScene(f"scene-{uid}", size * GB),)) for uid, size in warm.items()
    )
    return replace(digest(name, slices=tuple(cut)), pods=holding)


def running(rig: Rig, node: str, *uids: str, priority: int = 0, pool: str = "pool-1") -> None:
    for uid in uids:
        made = pod(uid, node=node, phase="Running")
        made["spec"]["priority"] = priority
        made["metadata"]["labels"]["splatfleet.io/pool"] = pool
        rig.event("ADDED", made)


def ask(rig: Rig, victims: dict[str, list[str]], priority: int = 1000, violations: int = 0, **spec: Any) -> Any:
    asked = pod("urgent", **spec)
    asked["spec"]["priority"] = priority
    proposed = {
        node: {"Pods": [{"UID": uid} for uid in uids], "NumPDBViolations": violations} for node, uids in victims.items()
    }
    reply = rig.client.post("/preempt", json={"Pod": asked, "NodeNameToMetaVictims": proposed})
    assert reply.status_code == 200
    (answer,) = reply.json().values()
    return {node: [item["UID"] for item in said["Pods"]] for node, said in answer.items()}


@pytest.mark.parametrize("mode", ["nodecachecapable-true", "nodecachecapable-false"])
def test_golden(rig: Start, golden: Golden, mode: str) -> None:
    body = golden(f"preempt-{mode}")
    whole = body["NodeNameToVictims"] or {}
    expected = {
        node: {
            "Pods": [{"UID": item.get("UID") or item["metadata"]["uid"]} for item in victims["Pods"]],
            "NumPDBViolations": victims["NumPDBViolations"],
        }
        for node, victims in (body["NodeNameToMetaVictims"] or whole).items()
    }
    assert rig().client.post("/preempt", json=body).json() == {"NodeNameToMetaVictims": expected}


def test_lower_case_keys(rig: Start) -> None:
    body = {"pod": pod("p"), "nodeNameToMetaVictims": {"one": {"pods": [{"uid": "v"}], "numPDBViolations": 2}}}
    answer = rig().client.post("/preempt", json=body).json()
    assert answer == {"NodeNameToMetaVictims": {"one": {"Pods": [{"UID": "v"}], "NumPDBViolations": 2}}}


def test_the_coldest_of_a_pool_goes_instead(rig: Start) -> None:
    started = rig(one=full_node("one", {"hot": 9, "warm": 5, "cold": 1}))
    running(started, "one", "hot", "warm", "cold")
    assert ask(started, {"one": ["hot"]}) == {"one": ["cold"]}
    assert started.metric("splatfleet_extender_reservations ") == 0


def test_another_pool_or_more_priority_does_not_stand_in(rig: Start) -> None:
    started = rig(one=full_node("one", {"hot": 9, "batch": 0, "dear": 0}))
    running(started, "one", "hot")
    running(started, "one", "batch", pool="pool-2")
    running(started, "one", "dear", priority=500)
    assert ask(started, {"one": ["hot"]}) == {"one": ["hot"]}


def test_the_node_that_loses_least_is_left(rig: Start) -> None:
    started = rig(one=full_node("one", {"a": 9}), two=full_node("two", {"b": 2}), three=full_node("three", {"c": 2}))
    for node, uid in (("one", "a"), ("two", "b"), ("three", "c")):
        running(started, node, uid)
    assert ask(started, {"one": ["a"], "two": ["b"], "three": ["c"]}) == {"two": ["b"], "three": ["c"]}


def test_less_priority_goes_before_less_warmth(rig: Start) -> None:
    started = rig(one=full_node("one", {"a": 9}), two=full_node("two", {"b": 1}))
    running(started, "one", "a", priority=1)
    running(started, "two", "b", priority=100)
    assert ask(started, {"one": ["a"], "two": ["b"]}) == {"one": ["a"]}


def test_an_empty_list_is_filled_where_a_slice_must_be_freed(rig: Start) -> None:
    started = rig(one=full_node("one", {"hot": 9, "cold": 1}))
    running(started, "one", "hot", "cold")
    assert ask(started, {"one": []}) == {"one": ["cold"]}
    assert ask(started, {"one": []}, priority=0) == {}  # nobody there is worth less


def test_an_empty_list_is_left_out_where_nobody_need_leave(rig: Start) -> None:
    started = rig(one=full_node("one", {"hot": 9}, free=1), two=full_node("two", {"a": 1}))
    running(started, "one", "hot")
    running(started, "two", "a")
    assert ask(started, {"one": [], "two": ["a"]}) == {"two": ["a"]}
    assert ask(started, {"one": []}) == {}


def test_a_place_that_is_promised_to_another_needs_one_more_victim(rig: Start) -> None:
    started = rig(one=full_node("one", {"a": 1, "b": 2}, free=1))
    running(started, "one", "a", "b")
    started.prioritize(pod("earlier"), ["one"])
    assert ask(started, {"one": []}) == {"one": ["a"]}


def test_nodes_that_nobodys_leaving_would_help_are_left_out(rig: Start) -> None:
    started = rig(one=full_node("one", {"a": 1}), two=digest("two", slices=(Slice("3g.40gb", 0, True, "b"),)))
    running(started, "one", "a")
    assert ask(started, {"one": ["a"], "two": ["b"]}) == {"one": ["a"]}


def test_whom_we_do_not_know_is_kube_schedulers_business(rig: Start) -> None:
    started = rig(one=full_node("one", {"stranger": 1}))
    assert ask(started, {"one": ["stranger"], "nowhere": ["x", "y"]}) == {"nowhere": ["x", "y"], "one": ["stranger"]}


def test_bad_bodies(rig: Start) -> None:
    started = rig(one=digest("one"))
    for body in (b"", b"[]", b"{", b'{"Pod":{},"NodeNameToMetaVictims":5}', b'{"NodeNameToMetaVictims":{"one":[]}}'):
        assert started.client.post("/preempt", content=body).json() == {"NodeNameToMetaVictims": {}}
    unreadable = {"Pod": 7, "NodeNameToMetaVictims": {"one": {"Pods": [{"UID": "v"}]}, "two": {"Pods": []}}}
    answer = started.client.post("/preempt", json=unreadable).json()["NodeNameToMetaVictims"]
    assert answer == {"one": {"Pods": [{"UID": "v"}], "NumPDBViolations": 0}}
    assert started.metric('splatfleet_extender_requests_total{outcome="fail_open",verb="preempt"}') == 1
