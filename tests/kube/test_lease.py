"""Two leaders never write: over drawn delays and losses for the core, and with a hung API server for the edge."""

from __future__ import annotations

import heapq
import json
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kube.connection import Connection
from kube.election import NOBODY, Election, LeaseRecord, Terms
from kube.lease import Elector, NotLeading
from tests.kube.stub_server import StubServer, kubeconfig, stub_server

TERMS = Terms(lease_s=15.0, renew_s=10.0, retry_s=2.0)

delays_s = st.floats(0.0, 40.0)
calls = st.tuples(delays_s, delays_s, st.sampled_from(["answered", "answered", "answered", "lost", "refused"]))


class World:
    """One Lease, candidates whose clocks have any offset, calls that take any time, and candidates that die."""

    def __init__(self, offsets_s: list[float], drawn: list[tuple[float, float, str]]) -> None:
        self.lease = NOBODY
        self.versions = 0
        self.candidates = [Election(f"c{index}", TERMS) for index in range(len(offsets_s))]
        self.offsets_s = offsets_s
        self.drawn = drawn
        self.queue: list[tuple[float, int, Callable[[float], None]]] = []
        self.count = 0
        self.leaders: list[tuple[str, int]] = []

    def at(self, when_s: float, what: Callable[[float], None]) -> None:
        self.count += 1
        heapq.heappush(self.queue, (when_s, self.count, what))

    def call(self) -> tuple[float, float, str]:
        return self.drawn.pop() if self.drawn else (0.01, 0.01, "answered")

    def round(self, index: int, now_s: float) -> None:
        """What the elector's thread does once, with the server's work and the answer each delayed."""
        election, offset_s = self.candidates[index], self.offsets_s[index]
        if election.known() is not None:
            self.write(index, now_s)
            return
        there_s, back_s, outcome = self.call()

        def arrive(at_s: float) -> None:
            record = self.lease
            if outcome == "lost":
                self.at(at_s + back_s + TERMS.retry_s, lambda then_s: self.round(index, then_s))
                return

            def answer(then_s: float) -> None:
                election.saw(record, then_s + offset_s)
                self.write(index, then_s)

            self.at(at_s + back_s, answer)

        self.at(now_s + there_s, arrive)

    def write(self, index: int, now_s: float) -> None:
        election, offset_s = self.candidates[index], self.offsets_s[index]
        record = election.attempt(now_s + offset_s)
        if record is None:
            self.at(now_s + TERMS.retry_s, lambda then_s: self.round(index, then_s))
            return
        there_s, back_s, outcome = self.call()
        sent_s = now_s + offset_s

        def arrive(at_s: float) -> None:
            done = self.commit(record)

            def answer(then_s: float) -> None:
                if outcome == "lost":
                    election.unsure()
                elif done is None or outcome == "refused":
                    election.lost()
                else:
                    election.wrote(done, sent_s)
                self.at(then_s + TERMS.retry_s, lambda later_s: self.round(index, later_s))

            self.at(at_s + back_s, answer)

        self.at(now_s + there_s, arrive)

    def commit(self, record: LeaseRecord) -> LeaseRecord | None:
        if record.version != self.lease.version:
            return None
        self.versions += 1
        self.lease = replace(record, version=str(self.versions))
        return self.lease

    def run(self, until_s: float) -> None:
        for index in range(len(self.candidates)):
            self.at(float(index), lambda now_s, index=index: self.round(index, now_s))  # type: ignore[misc]
        while self.queue and self.queue[0][0] < until_s:
            now_s, _, what = heapq.heappop(self.queue)
            self.check(now_s)
            what(now_s)
            self.check(now_s)

    def check(self, now_s: float) -> None:
        leading = [
            (election.identity, held.token)
            for election, offset_s in zip(self.candidates, self.offsets_s, strict=True)
            if (held := election.may_write(now_s + offset_s)) is not None
        ]
        assert len(leading) <= 1, leading
        if leading and (not self.leaders or self.leaders[-1] != leading[0]):
            # A token is larger than that of every other leader before; the same leader may come back to its own.
            assert all(token < leading[0][1] for who, token in self.leaders if who != leading[0][0]), self.leaders
            self.leaders.append(leading[0])


@settings(max_examples=300, deadline=None)
@given(st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=4), st.lists(calls, max_size=60))
def test_two_leaders_never_write(offsets_s: list[float], drawn: list[tuple[float, float, str]]) -> None:
    world = World(offsets_s, drawn)
    world.run(600.0)
    assert world.leaders or len(drawn) > 4, "with a server that answers somebody leads"


def test_the_check_finds_a_leader_that_trusts_itself_too_long() -> None:
    """The first leader's renewal is lost, and it goes on beyond the lease."""

    class Careless(Election):
        def wrote(self, record: LeaseRecord, sent_s: float) -> None:
            super().wrote(record, sent_s + 30.0)

    quick = (0.0, 0.01, "answered")
    world = World([0.0, 0.0], [(0.0, 100.0, "lost"), quick, quick, quick])
    world.candidates = [Careless("a", TERMS), Careless("b", TERMS)]
    with pytest.raises(AssertionError):
        world.run(600.0)


@pytest.mark.parametrize("terms", [(10.0, 10.0, 2.0), (15.0, 10.0, 0.0), (15.0, 2.0, 3.0)])
def test_terms_that_are_not_safe_are_refused(terms: tuple[float, float, float]) -> None:
    with pytest.raises(ValueError, match="must hold"):
        Terms(*terms)


class LeaseServer(StubServer):
    """One Lease with optimistic locking; renewals of `hung` hang."""

    def __init__(self) -> None:
        super().__init__()
        self.lease: dict[str, Any] | None = None
        self.hung = ""
        self.lock = threading.Lock()

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        body = request.rfile.read(int(request.headers.get("Content-Length") or 0))
        document = json.loads(body) if body else None
        if document and self.hung and document["spec"]["holderIdentity"] == self.hung:
            self.fault(request, "hang", 30.0)
            return
        with self.lock:
            self.store(request, document)

    def store(self, request: BaseHTTPRequestHandler, document: dict[str, Any] | None) -> None:
        version = self.lease["metadata"]["resourceVersion"] if self.lease else None
        if document is None:
            status, answer = (200, self.lease) if self.lease else (404, {"reason": "NotFound"})
        elif document["metadata"].get("resourceVersion") != version:
            status, answer = 409, {"reason": "Conflict"}
        else:
            self.version += 1
            document["metadata"]["resourceVersion"] = str(self.version)
            self.lease = document
            status, answer = 200, document
        self.send(request, status, answer)


def wait_for(holds: Callable[[], bool], within_s: float) -> None:
    end_s = time.monotonic() + within_s
    while not holds():
        assert time.monotonic() < end_s, "not within the time"
        time.sleep(0.005)


def test_a_hung_renewal_ends_the_right_to_write_before_another_begins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tests.kube.stub_server.StubServer", LeaseServer)
    terms = Terms(lease_s=2.0, renew_s=1.2, retry_s=0.2)
    with stub_server() as server:
        assert isinstance(server, LeaseServer)
        connection = Connection.open(kubeconfig(tmp_path / "kubeconfig", server.address))
        first = Elector(connection, "system", "splatfleet", terms).start()
        wait_for(lambda: first.leads, 5.0)
        second = Elector(connection, "system", "splatfleet", terms).start()
        token = first.guard(0.1).token
        server.hung = first.identity
        both = False

        def second_leads() -> bool:
            nonlocal both
            both = both or (first.leads and second.leads)
            return second.leads

        wait_for(second_leads, 15.0)
        assert not both
        with pytest.raises(NotLeading, match="does not lead"):
            first.guard(0.0)
        assert second.guard(0.1).token == token + 1
        server.hung = ""
        time.sleep(1.0)
        assert second.leads
        assert not first.leads

        second.stop()  # releases: the next leads without waiting for the end of the lease
        assert not second.leads
        released_s = time.monotonic()
        wait_for(lambda: first.leads, 5.0)
        assert time.monotonic() - released_s < terms.lease_s
        assert first.guard(0.1).token == token + 2
        first.stop()
        assert server.lease is not None
        assert server.lease["spec"]["holderIdentity"] == ""
        connection.close()
