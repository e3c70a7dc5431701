"""The reflector against a server that misbehaves; each fault hits the wire."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from fleet.metrics import WATCH_FAILURES, WATCH_SYNCED
from kube.backoff import Backoff
from kube.connection import Connection
from kube.objects import PODS, Pod
from kube.reflector import Reflector, Scope, Timings
from kube.watch_metrics import WatchCollector
from kube.watch_store import Change
from tests.kube.stub_server import StubServer, pod

FAST = Timings(page=2, list_deadline_s=0.5, watch_s=1.0, slack_s=0.3, backoff_first_s=0.02, backoff_most_s=0.3)


@pytest.fixture
def changes() -> list[Change[Pod]]:
    return []


@pytest.fixture
def reflector(connection: Connection, changes: list[Change[Pod]]) -> Iterator[Reflector[Pod]]:
    found = Reflector(connection, PODS, Scope("default", "splatfleet.io/pool"), changes.append, FAST)
    yield found
    found.stop()
    assert not found.alive


def eventually(holds: Callable[[], bool], within_s: float = 30.0) -> None:
    end_s = time.monotonic() + within_s
    while not holds():
        assert time.monotonic() < end_s, "not within the time"
        time.sleep(0.01)


def names(reflector: Reflector[Pod]) -> list[str]:
    return sorted(found.metadata.name for found in reflector.items())


def test_it_lists_by_pages_and_follows(stub: StubServer, reflector: Reflector[Pod], changes: list[Change[Pod]]) -> None:
    for index in range(5):
        stub.put(pod(f"p{index}", 1))
    assert not reflector.has_synced
    assert reflector.event_age_s is None
    reflector.start()
    assert reflector.wait_synced(5)
    assert names(reflector) == ["p0", "p1", "p2", "p3", "p4"]
    lists = [what for _, what, _, _ in stub.requests if "limit=2" in what]
    assert len(lists) == 3
    assert all("labelSelector=splatfleet.io%2Fpool" in what for what in lists)
    eventually(lambda: reflector.counts.watches == 1)
    stub.put(pod("p1", 1, status={"phase": "Running", "podIP": "127.0.7.1"}))
    stub.put(pod("p0", 1), "DELETED")
    eventually(lambda: len(changes) == 7)
    assert [(change.kind, change.object.metadata.name) for change in changes[5:]] == [
        ("modified", "p1"),
        ("deleted", "p0"),
    ]
    found = reflector.get("p1", "default")
    assert found is not None
    assert found.status.pod_ip == "127.0.7.1"
    assert changes[5].before is not None
    assert changes[5].before.status.pod_ip == ""


def test_a_watch_that_the_server_ends_goes_on_from_where_it_was(stub: StubServer, reflector: Reflector[Pod]) -> None:
    reflector.start()
    eventually(lambda: reflector.counts.watches >= 1)
    stub.put(pod("a", 1))
    stub.say({"type": "BOOKMARK", "object": {"kind": "Pod", "metadata": {"resourceVersion": "900"}}})
    eventually(lambda: any("resourceVersion=900" in what for _, what, _, _ in stub.requests))
    assert reflector.counts.lists == 1


@pytest.mark.parametrize("as_event", [True, False])
def test_after_410_it_lists_again_and_tells_what_it_missed(
    stub: StubServer, reflector: Reflector[Pod], changes: list[Change[Pod]], as_event: bool
) -> None:
    stub.put(pod("gone", 1))
    stub.put(pod("stays", 1))
    if not as_event:
        stub.faults.append(("watch", 410, None, {"reason": "Expired", "message": "too old"}))
    reflector.start()
    assert reflector.wait_synced(5)
    eventually(lambda: reflector.counts.watches >= 1)
    stub.pods.pop("gone")
    stub.pods["new"] = pod("new", 40)
    if as_event:
        stub.say({"type": "ERROR", "object": {"kind": "Status", "code": 410, "reason": "Expired"}})
    eventually(lambda: names(reflector) == ["new", "stays"])
    assert [(change.kind, change.object.metadata.name) for change in changes[2:]] == [
        ("deleted", "gone"),
        ("added", "new"),
    ]


def test_a_watch_that_hangs_is_given_up(stub: StubServer, reflector: Reflector[Pod]) -> None:
    stub.faults.append(("watch", "hang", 30.0))
    reflector.start()
    eventually(lambda: reflector.counts.failures == 1)
    stub.put(pod("after", 1))
    eventually(lambda: names(reflector) == ["after"])
    assert "Timeout" in reflector.last_error


def test_a_list_that_hangs_is_given_up_and_nothing_counts_as_synced(
    stub: StubServer, reflector: Reflector[Pod]
) -> None:
    stub.faults += [("list", "hang", 30.0), ("list", "garbage")]
    reflector.start()
    eventually(lambda: reflector.counts.failures == 1)
    assert not reflector.has_synced
    assert reflector.wait_synced(5)
    assert reflector.counts.failures == 2


def test_throttling_is_obeyed_up_to_the_cap(stub: StubServer, reflector: Reflector[Pod]) -> None:
    stub.faults += [("watch", 429, {"Retry-After": "3600"}, None)] * 3
    reflector.start()
    eventually(lambda: reflector.counts.watches >= 4)
    at_s = [when for when, what, _, _ in stub.requests if "watch=1" in what]
    gaps_s = [after - before for before, after in itertools.pairwise(at_s)]
    assert all(0.25 < gap_s < 2.0 for gap_s in gaps_s[:3]), gaps_s


def test_a_watch_that_ends_at_once_is_no_busy_loop(stub: StubServer, reflector: Reflector[Pod]) -> None:
    stub.faults += [("watch", "empty")] * 1000
    reflector.start()
    time.sleep(1.0)
    assert 2 <= reflector.counts.watches < 30


def test_a_dropped_connection_loses_nothing(stub: StubServer, reflector: Reflector[Pod]) -> None:
    reflector.start()
    eventually(lambda: reflector.counts.watches == 1)
    stub.put(pod("a", 1))
    eventually(lambda: names(reflector) == ["a"])
    stub.dropping = True
    stub.put(pod("b", 1))
    eventually(lambda: names(reflector) == ["a", "b"])
    assert reflector.counts.lists == 1


def test_a_malformed_object_is_skipped_counted_and_keeps_its_last_state(
    stub: StubServer, reflector: Reflector[Pod]
) -> None:
    broken = {"containers": [{"resources": {"requests": ["cpu"]}}]}
    stub.put(pod("bad", 1, spec=broken))
    stub.put(pod("good", 1))
    reflector.start()
    assert reflector.wait_synced(5)
    assert names(reflector) == ["good"]
    assert reflector.counts.skipped == 1
    eventually(lambda: reflector.counts.watches == 1)
    stub.put(pod("good", 1, spec=broken, status={"phase": "Running"}))
    stub.put(pod("last", 1))
    eventually(lambda: names(reflector) == ["good", "last"])
    kept = reflector.get("good", "default")
    assert kept is not None
    assert kept.status.phase == "Pending"
    assert reflector.counts.skipped == 2
    stub.put(pod("good", 1, spec=broken), "DELETED")
    eventually(lambda: names(reflector) == ["last"])


def test_a_callback_that_raises_stops_nothing(stub: StubServer, connection: Connection) -> None:
    def refuse(_: Change[Pod]) -> None:
        raise RuntimeError("a reader's bug")

    reflector = Reflector(connection, PODS, Scope("default"), refuse, FAST).start()
    try:
        eventually(lambda: reflector.counts.watches == 1)
        stub.put(pod("a", 1))
        eventually(lambda: names(reflector) == ["a"])
        assert reflector.alive
    finally:
        reflector.stop()


def test_backoff_doubles_to_the_cap_with_jitter() -> None:
    backoff = Backoff(lambda: 0.0, first_s=1.0, most_s=10.0)
    assert [backoff.failed() for _ in range(6)] == [0.5, 1.0, 2.0, 4.0, 5.0, 5.0]
    assert backoff.failed(retry_after_s=7.0) == 7.0
    assert backoff.failed(retry_after_s=3600.0) == 10.0
    backoff.succeeded()
    assert backoff.failed() == 0.5


def test_two_watches_of_one_resource_are_one_series(stub: StubServer, connection: Connection) -> None:
    """The extender watches waiting pods beside those that are bound; Prometheus refuses a series told twice."""
    stub.put(pod("p0", 1))
    both = [Reflector(connection, PODS, Scope("default", selector), lambda _: None, FAST) for selector in ("", "a=b")]
    registry = CollectorRegistry()
    registry.register(WatchCollector(lambda: both))
    of_pods = {"resource": "pods"}
    try:
        both[0].start()
        assert both[0].wait_synced(5)
        assert registry.get_sample_value(WATCH_SYNCED.name, of_pods) == 0.0  # the other one is not there yet
        both[1].start()
        assert both[1].wait_synced(5)
        assert registry.get_sample_value(WATCH_SYNCED.name, of_pods) == 1.0
        both[0].counts.failures += 2
        both[1].counts.failures += 3
        assert registry.get_sample_value(WATCH_FAILURES.name, of_pods) == 5.0
        series = [line for line in generate_latest(registry).decode().splitlines() if not line.startswith("#")]
        assert len(series) == len({line.rsplit(" ", 1)[0] for line in series})
    finally:
        for reflector in both:
            reflector.stop()


def test_gathering_does_not_bound_how_many_events_are_read(stub: StubServer, connection: Connection) -> None:
    timings = Timings(watch_s=20.0, gather_s=0.1)
    with_pauses = Reflector(connection, PODS, Scope("default"), timings=timings).start()
    try:
        assert with_pauses.wait_synced(5)
        eventually(lambda: with_pauses.counts.watches == 1)
        begun_s = time.monotonic()
        for index in range(200):
            stub.put(pod(f"p{index}", 1))
        eventually(lambda: len(with_pauses.items()) == 200)
        assert time.monotonic() - begun_s < 200 * timings.gather_s / 4  # a pause for each would take all of them
    finally:
        with_pauses.stop()
