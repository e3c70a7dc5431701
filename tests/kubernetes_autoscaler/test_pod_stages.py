"""How long pods took to start, by what a watch showed."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from autoscaler.evidence import upper_quantile
from autoscaler.pod_stages import AGREEING, StartupBook, stage_of
from kube.objects import Condition, ContainerState, ContainerStatus, Meta, Node, Pod, PodSpec, PodStatus

T0_S = 1_795_000_000.0


def time_of(at_s: float) -> str:
    return datetime.fromtimestamp(int(at_s), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def pod(
    uid: str = "u", node: str = "", running_s: float | None = None, ready_s: float | None = None, **status: Any
) -> Pod:
    conditions, containers = [], []
    if node:
        conditions.append(Condition("PodScheduled", "True", last_transition_time=time_of(T0_S + 10)))
    if running_s is not None:
        state = ContainerState(running={"startedAt": time_of(running_s)})
        containers.append(ContainerStatus("renderer", state=state))
    if ready_s is not None:
        conditions.append(Condition("Ready", "True", last_transition_time=time_of(ready_s)))
    meta = Meta(uid, uid=uid, creation_timestamp=time_of(T0_S))
    whole = {"conditions": conditions, "container_statuses": containers or None, **status}
    return Pod(meta, PodSpec(node_name=node), PodStatus(**whole))


def test_stages_of_a_start_that_was_watched() -> None:
    book = StartupBook()
    node = Node(Meta("n", creation_timestamp=time_of(T0_S + 5)))
    assert book.saw(pod(), "p", None, T0_S + 0.4) is None
    assert book.saw(pod(node="n"), "p", node, T0_S + 10.2) is None
    assert book.age_s(pod(node="n"), T0_S + 12.4) == pytest.approx(12.0)
    start = book.saw(pod(node="n", running_s=T0_S + 25, ready_s=T0_S + 40), "p", node, T0_S + 40.6)
    assert start is not None
    assert start.total_s == pytest.approx(40.2)
    assert sum(start.stages().values()) == pytest.approx(start.total_s)
    assert start.stages()["fetching"] == pytest.approx(15.0)
    assert start.new_node
    assert book.seconds("p") == (start.total_s,)
    assert book.saw(pod(node="n", ready_s=T0_S + 400), "p", node, T0_S + 400) is None, "once"


def test_a_watch_that_was_away_does_not_lengthen_the_start() -> None:
    book = StartupBook()
    book.saw(pod(node="n"), "p", None, T0_S + 1)
    start = book.saw(pod(node="n", ready_s=T0_S + 20), "p", None, T0_S + 80)
    assert start is not None
    assert start.total_s == pytest.approx(20.0, abs=1.5)


def test_a_pod_that_was_ready_for_long_says_nothing() -> None:
    book = StartupBook()
    assert book.saw(pod(ready_s=T0_S + 86_000), "p", None, T0_S + 86_400) is None
    assert book.seconds("p") == ()
    young = book.saw(pod("v", node="n", ready_s=T0_S + 30), "p", None, T0_S + 100)
    assert young is not None
    assert young.total_s == pytest.approx(30.0)


def started(book: StartupBook, *took_s: float, new_node: bool = False) -> None:
    """One pod after the other, each watched from the ask to readiness by the clock given here."""
    for number, seconds in enumerate(took_s, len(book.starts.get("p", ()))):
        node = Node(Meta("n", creation_timestamp=time_of(T0_S + 5 if new_node else T0_S - 900)))
        book.saw(pod(f"u{number}"), "p", None, T0_S)
        assert book.saw(pod(f"u{number}", node="n", ready_s=T0_S + seconds), "p", node, T0_S + seconds) is not None


def test_starts_of_a_busy_minute_are_forgotten_after_a_few_quick_ones() -> None:
    book = StartupBook()
    started(book, 20, 21, 19, 100, 120, 90)
    assert upper_quantile(book.seconds("p"), 0.9, 60.0) > 100
    started(book, *[20] * (AGREEING - 1))
    assert upper_quantile(book.seconds("p"), 0.9, 60.0) > 90, "not yet: the slow ones may be the rule"
    started(book, 30)
    assert 20 < upper_quantile(book.seconds("p"), 0.9, 60.0) <= 30
    started(book, 70)
    assert max(book.seconds("p")) == 120, "one slow start speaks for the older ones again"


def test_nothing_shorter_than_the_newest_starts_is_believed() -> None:
    book = StartupBook()
    started(book, 100, *[20] * (AGREEING - 1), 60)
    assert book.seconds("p")[-AGREEING:] == (*[20.0] * (AGREEING - 1), 60.0)
    assert max(book.seconds("p")) == 100, "60 s are over half of it"


def test_starts_that_waited_for_a_node_are_not_forgotten() -> None:
    book = StartupBook()
    started(book, 300, 310, 320, new_node=True)
    started(book, *[20] * 12)
    assert sorted(book.seconds("p"))[-3:] == [300.0, 310.0, 320.0]
    assert upper_quantile(book.seconds("p"), 0.9, 60.0) > 200


def test_where_a_pod_stands() -> None:
    crashing = ContainerStatus("r", state=ContainerState(waiting={"reason": "CrashLoopBackOff"}))
    pulling = ContainerStatus("r", state=ContainerState(waiting={"reason": "ImagePullBackOff"}))
    assert stage_of(pod()) == "provisioning"
    assert stage_of(pod(node="n")) == "fetching"
    assert stage_of(pod(node="n", container_statuses=[pulling])) == "fetching"
    assert stage_of(pod(node="n", container_statuses=[crashing])) == "failing"
    assert stage_of(pod(node="n", running_s=T0_S)) == "loading"
