"""The extender on an API server that misbehaves at the wire."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import pytest

from kube.connection import Connection
from kube.reflector import Timings
from scheduler_extender.app import Extender
from scheduler_extender.cluster import Cluster
from scheduler_extender.kubernetes import ClusterWatch
from scheduler_extender.server import Server, listen_on
from scheduler_extender.state import DigestPoller
from tests.kube.stub_server import StubServer, kubeconfig, pod, stub_server

FAST = Timings(page=2, list_deadline_s=0.5, watch_s=1.0, slack_s=0.3, backoff_first_s=0.02, backoff_most_s=0.3)


@dataclass
class Running:
    stub: StubServer
    extender: Extender
    client: httpx2.Client

    def lacking(self) -> str:
        reply = self.client.get("/-/ready")
        assert reply.status_code == (503 if reply.json()["waiting_for"] else 200)
        return "; ".join(reply.json()["waiting_for"])

    def metric(self, line_start: str) -> float:
        lines = self.client.get("/metrics").text.splitlines()
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(line_start))

    def pods(self) -> set[str]:
        return {known.name for known in self.extender.cluster.snapshot.pods.values()}


@pytest.fixture
def stub() -> Iterator[StubServer]:
    """Every collection holds the same objects; what is read of a pod decides."""
    with stub_server() as server:
        yield server


@pytest.fixture
def running(stub: StubServer, tmp_path: Path) -> Iterator[Running]:
    connection = Connection.open(kubeconfig(tmp_path / "kubeconfig", stub.address))
    cluster = Cluster()
    poller = DigestPoller(cluster, {}, 0.2, 1.0, time.monotonic)
    extender = Extender(cluster, poller, watch=ClusterWatch(connection, most_silent_s=2.0, timings=FAST))
    server, listener = Server(extender), listen_on(("127.0.0.1", 0))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    with httpx2.Client(base_url=f"http://127.0.0.1:{listener.getsockname()[1]}", trust_env=False) as client:
        yield Running(stub, extender, client)
    server.should_exit = True
    thread.join(10)
    connection.close()


def until(holds: Callable[[], Any], within_s: float = 30.0) -> None:
    end_s = time.monotonic() + within_s
    while not holds():
        assert time.monotonic() < end_s, "not within the time"
        time.sleep(0.02)


def test_a_malformed_object_is_skipped_and_counted_and_the_others_count(running: Running) -> None:
    running.stub.put(pod("good", 1))
    running.stub.put({**pod("bad", 2), "spec": {"containers": "none"}})
    until(lambda: running.pods() == {"good"} and not running.lacking())
    assert running.metric('splatfleet_watch_skipped_objects_total{resource="pods"}') >= 1
    running.stub.put(pod("bad", 3))
    until(lambda: running.pods() == {"good", "bad"})


def test_what_was_missed_while_the_server_forgot_is_caught_up(running: Running) -> None:
    running.stub.put(pod("gone", 1))
    running.stub.put(pod("stays", 1))
    until(lambda: running.pods() == {"gone", "stays"} and not running.lacking())
    running.stub.pods.pop("gone")
    running.stub.say({"type": "ERROR", "object": {"kind": "Status", "code": 410, "reason": "Expired"}})
    until(lambda: running.pods() == {"stays"})
    assert running.metric('splatfleet_watch_expired_total{resource="pods"}') >= 1


def test_a_server_that_throttles_or_hangs_makes_it_unready_and_answers_go_on(running: Running) -> None:
    running.stub.put(pod("known", 1))
    until(lambda: not running.lacking())
    faults = [("watch", 429, {"Retry-After": "3600"}, None), ("watch", "hang", 30.0), ("watch", 500, {}, None)]
    running.stub.faults += faults * 20
    until(lambda: "no word for" in running.lacking())
    reply = running.client.post("/filter", json={"Pod": pod("asked", 1), "NodeNames": ["gpu-0"]})
    assert reply.json()["NodeNames"] == ["gpu-0"]
    running.stub.faults.clear()
    running.stub.put(pod("later", 1))
    until(lambda: not running.lacking() and "later" in running.pods())


@pytest.mark.parametrize("fault", [("list", 500, {}, None), ("list", "garbage")])
def test_it_is_not_ready_before_the_first_list(
    stub: StubServer, fault: tuple[Any, ...], request: pytest.FixtureRequest
) -> None:
    stub.faults += [fault] * 10_000
    running: Running = request.getfixturevalue("running")
    assert "not listed yet" in running.lacking() or "not reached yet" in running.lacking()
    running.stub.faults.clear()
    until(lambda: not running.lacking())
