"""The cluster as the loop sees it, in this process, on the real API server: what is written between two looks."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing
from typing import Any

import pytest

from autoscaler.decision import Decision, Reason
from autoscaler.kubernetes_cluster import LiveCluster
from autoscaler.node_services import Addresses
from autoscaler.pool import Pool
from autoscaler.resource import parse_time
from autoscaler.scrape import DirectScrape
from autoscaler.target import ScaleMoved, Writes
from autoscaler.watches import Watches
from fleet.labels import DRAINING_ANNOTATION, POOL_LABEL
from kube.connection import Connection
from kube.events import EventRecorder
from tests.control_plane.objects import pod
from tests.kubernetes_autoscaler.cluster import MERGE, NODE, Demand, Space, until

pytestmark = [pytest.mark.usefixtures("kubelet"), pytest.mark.timeout(200)]


class Live:
    """A cluster that leads, on watches that go on when it is started again."""

    def __init__(self, space: Space, watches: Watches, source: DirectScrape) -> None:
        self._space = space
        self.watches = watches
        self._source = source
        self.start()

    def start(self) -> None:
        """Begin anew: all that was remembered is forgotten."""
        writes = Writes(self.watches.connection, float, write_s=4.0, drain_s=60.0)
        events = EventRecorder(self.watches.connection, "splatfleet-autoscaler")
        self.cluster = LiveCluster(self.watches, self._source, writes, events, lambda: True, tick_s=1.0)

    def look(self) -> Pool:
        """The one pool, once its resource has come over the watch."""
        (pool,) = until(self.cluster.pools)
        return pool

    def decide(self, current: int, replicas: int, reason: Reason) -> dict[str, Any]:
        """One tick with this decision; the status after it."""
        pool = self.look()
        decision = Decision(pool.name, replicas, reason, "", current=current)
        if replicas != current:
            self.cluster.scale(pool, decision)
        self.cluster.report([decision])
        status: dict[str, Any] = self._space.resource()["status"]
        assert status["reason"] == reason
        return status


@pytest.fixture
def live(space: Space, demand: Demand) -> Iterator[Live]:
    with ExitStack() as stack:
        connection = stack.enter_context(closing(Connection.open(space.plane.kubeconfig)))
        watches = stack.enter_context(closing(Watches(connection, space.namespace, Addresses())))
        source = stack.enter_context(closing(DirectScrape(demand.url, [], bin_s=1.0)))
        watches.start()
        assert not watches.wait_synced(20.0)
        yield Live(space, watches, source)


def standing(space: Space, replicas: int) -> None:
    """A paused Deployment and its resource: nobody makes pods or takes them, so those there are stay."""
    labels = {POOL_LABEL: space.namespace, "app": "renderer"}
    template = {"metadata": {"labels": labels}, "spec": {"containers": [{"name": "renderer", "image": "none"}]}}
    spec = {"paused": True, "replicas": replicas, "selector": {"matchLabels": labels}, "template": template}
    metadata = {"name": "renderer", "namespace": space.namespace}
    space.plane.apply({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": metadata, "spec": spec})
    space.autoscale()


def ready_pod(space: Space, name: str, finalizers: Sequence[str] = ()) -> str:
    """The uid of a pod of the pool that has no owner."""
    made = pod(name, namespace=space.namespace, labels={POOL_LABEL: space.namespace}, finalizers=list(finalizers))
    made["spec"]["nodeName"] = NODE
    return str(space.plane.request("POST", space.path("pods", group="api/v1"), made)["metadata"]["uid"])


@pytest.mark.parametrize("held", [False, True], ids=["gone", "terminating"])
def test_a_victim_that_vanishes_before_the_write_is_counted_once(space: Space, live: Live, held: bool) -> None:
    standing(space, replicas=5)
    first = ready_pod(space, "first", ["example.com/held"] if held else [])
    second, *_ = [ready_pod(space, name) for name in ("second", "third", "fourth", "fifth")]
    pool = live.look()
    until(lambda: sum(pod.ready for pod in live.watches.pods()) == 5)
    path = space.path("pods", "first", "api/v1")
    if held:
        unready = {"status": {"conditions": [{"type": "Ready", "status": "False"}]}}
        space.plane.request("PATCH", f"{path}/status", unready, MERGE)
    space.plane.request("DELETE", path, {"gracePeriodSeconds": 0})
    until(lambda: sum(not pod.terminating for pod in live.watches.pods()) == 4)
    decision = Decision(pool.name, 3, Reason.SURPLUS, "", current=5, victims=(first, second))
    live.cluster.scale(pool, decision)
    if held:
        space.plane.request("PATCH", path, {"metadata": {"finalizers": None}}, MERGE)
    assert space.replicas() == 4, "the other one drains first"
    (drains,) = [found for found in space.pods() if DRAINING_ANNOTATION in found["metadata"].get("annotations", {})]
    assert drains["metadata"]["uid"] == second


def test_nothing_is_kept_of_a_resource_that_is_gone(space: Space, live: Live) -> None:
    standing(space, replicas=0)
    pool = live.look()
    live.cluster.report([Decision(pool.name, 0, Reason.STEADY, "")])
    uid = space.resource()["metadata"]["uid"]
    assert set(live.cluster._written) == {uid}
    space.plane.request("DELETE", space.path("predictiveautoscalers", "renderer", "apis/splatfleet.io/v1alpha1"))
    until(lambda: not live.cluster.pools())
    assert not live.cluster._written


def test_the_time_of_the_last_change_of_the_count_outlives_ticks_and_restarts(space: Space, live: Live) -> None:
    standing(space, replicas=1)
    assert "lastScaleTime" not in live.decide(1, 1, Reason.STEADY)
    before_s = int(time.time())
    first = live.decide(1, 3, Reason.FORECAST)["lastScaleTime"]
    assert before_s <= parse_time("status.lastScaleTime", first) <= time.time()
    assert first.endswith("Z")
    time.sleep(1.1)  # the API counts whole seconds
    assert live.decide(3, 3, Reason.STARTING)["lastScaleTime"] == first
    with pytest.raises(ScaleMoved):
        live.decide(7, 9, Reason.DEMAND)
    until(lambda: live.watches.resources()[0].status["reason"] == Reason.STARTING)
    live.start()
    assert live.decide(3, 3, Reason.STEADY)["lastScaleTime"] == first
    down = live.decide(3, 2, Reason.SURPLUS)["lastScaleTime"]
    assert down > first
    assert live.decide(2, 2, Reason.STEADY)["lastScaleTime"] == down
