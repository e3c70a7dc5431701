"""Senders that do harm: huge, deep, slow, silent and many. kube-scheduler is answered beside all of them."""

from __future__ import annotations

import json
import resource
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest

from scheduler_extender.connections import Connections
from tests.scheduler_extender.conftest import GB, Rig, digest, pod

Start = Callable[..., Rig]


@contextmanager
def connected(rig: Rig) -> Iterator[socket.socket]:
    port = rig.client.base_url.port
    assert port is not None
    with socket.create_connection(("127.0.0.1", port), timeout=10) as raw:
        yield raw


def answers(rig: Rig) -> bool:
    return rig.filter(pod("somebody"), ["one"])["NodeNames"] == ["one"]


def read_all(raw: socket.socket) -> bytes:
    said = b""
    try:
        while chunk := raw.recv(65536):
            said += chunk
    except ConnectionError:
        pass  # the rest of what we sent was thrown away
    return said


def test_fifty_megabytes_are_not_even_read(rig: Start) -> None:
    started = rig(most_body_bytes=16 << 20, one=digest("one"))
    with connected(started) as raw:
        raw.sendall(b"POST /filter HTTP/1.1\r\nHost: x\r\nContent-Length: 52428800\r\n\r\n")
        assert b"nodeCacheCapable" in read_all(raw)
    with connected(started) as raw:
        raw.sendall(b"POST /filter HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
        chunk = b"100000\r\n" + b" " * (1 << 20) + b"\r\n"
        sent = 0
        try:
            for _ in range(50):
                raw.sendall(chunk)
                sent += 1
        except ConnectionError:
            pass
        said = read_all(raw)
        assert sent < 50 or b"nodeCacheCapable" in said
    assert answers(started)


DEEP = 100_000
DEEP_BODIES = [
    b"[" * DEEP,
    b'{"Pod":' * DEEP,
    b'{"NodeNames":["one"],"Pod":{"spec":' + b"[" * DEEP + b"]" * DEEP + b"}}",
    b'{"Unknown":' + b'{"a":' * DEEP + b"1" + b"}" * DEEP + b',"NodeNames":["one"],"Pod":{}}',
    b'{"Nodes":{"items":[' + b"[" * DEEP + b"]" * DEEP + b"]}}",
]


@pytest.mark.parametrize("body", DEEP_BODIES, ids=["array", "pod", "spec", "unknown", "nodes"])
def test_depth_is_refused_or_passed_over(rig: Start, body: bytes) -> None:
    started = rig(one=digest("one"))
    for verb in ("filter", "prioritize", "preempt", "explain", "v1/pod-events"):
        reply = started.client.post(f"/{verb}", content=body)
        assert reply.status_code in (200, 400)
        assert len(reply.content) < 2000
    assert answers(started)


WRONG_TYPES: list[Any] = [None, True, 0, -1, 1e308, "", "x", [], [[]], {}, {"a": {}}, ["one", 5], [None]]


@pytest.mark.parametrize("verb", ["filter", "prioritize", "preempt"])
def test_any_type_anywhere_is_answered(rig: Start, verb: str) -> None:
    """kube-scheduler gets 200 and a body of the right shape whatever is put where."""
    started = rig(one=digest("one", {"scene-a": GB}))
    whole: dict[str, Any] = {"Pod": pod("uid-1", "scene-a"), "Nodes": None, "NodeNames": ["one"]}
    if verb == "preempt":
        whole = {"Pod": pod("uid-1", "scene-a"), "NodeNameToMetaVictims": {"one": {"Pods": [{"UID": "v"}]}}}
    paths = list(places(whole))
    assert len(paths) > 15
    for path in paths:
        for wrong in WRONG_TYPES:
            body = json.loads(json.dumps(whole))
            inner = body
            for step in path[:-1]:
                inner = inner[step]
            inner[path[-1]] = wrong
            reply = started.client.post(f"/{verb}", json=body)
            assert reply.status_code == 200, (path, wrong)
            assert isinstance(reply.json(), list if verb == "prioritize" else dict), (path, wrong)
    assert answers(started)


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    steps = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for step, inner in steps:
        yield (*path, step)
        yield from places(inner, (*path, step))


def test_of_duplicate_keys_the_last_counts_as_in_go(rig: Start) -> None:
    started = rig(one=digest("one"), two=digest("two"))
    body = b'{"Pod":{},"Pod":{"metadata":{"uid":"a","uid":"b"}},"NodeNames":["one"],"NodeNames":["two"]}'
    assert started.client.post("/filter", content=body).json()["NodeNames"] == ["two"]
    assert started.client.post("/explain", content=body).json()["pod"]["uid"] == "b"
    twice = b'{"Pod":{},"NodeNames":["one","one","one"]}'
    assert started.client.post("/filter", content=twice).json()["NodeNames"] == ["one"] * 3
    assert len(started.client.post("/prioritize", content=twice).json()) == 3


def test_names_that_are_no_names(rig: Start) -> None:
    started = rig(one=digest("one"))
    names = ["", "\u0000", "\N{GRINNING FACE}", "../..", "a" * 100_000, "one"]
    assert started.filter(pod("uid-1"), names)["NodeNames"] == names
    assert set(started.prioritize(pod("uid-1"), names)) == set(names)
    lone_surrogate = b'{"Pod":{},"NodeNames":["\\ud800"]}'
    assert started.client.post("/filter", content=lone_surrogate).status_code == 200


@pytest.mark.parametrize("said", [b"", b"P", b"POST /filter HTTP/1.1\r\nHost: x\r\nX: "])
def test_a_head_that_never_ends_is_cut(rig: Start, said: bytes) -> None:
    started = rig(connections=Connections(receipt_s=0.3), one=digest("one"))
    with connected(started) as raw:
        raw.sendall(said)
        assert read_all(raw) == b""
    assert answers(started)


def test_a_head_in_drops_is_cut_too(rig: Start) -> None:
    """Each byte in time, the whole too late; and the same on a connection that was answered before."""
    started = rig(connections=Connections(receipt_s=0.5), one=digest("one"))
    with connected(started) as raw:
        raw.sendall(b"GET /-/healthy HTTP/1.1\r\nHost: x\r\n\r\n")
        assert b"200 OK" in raw.recv(65536)
        began_s = time.monotonic()
        with suppress(ConnectionError):
            while time.monotonic() - began_s < 20:
                raw.sendall(b"G")
                time.sleep(0.05)
        assert time.monotonic() - began_s < 4
    assert answers(started)


def test_beyond_the_cap_the_silent_go_first(rig: Start) -> None:
    connections = Connections(most=20, receipt_s=30.0)
    started = rig(connections=connections, one=digest("one"))
    assert answers(started)  # its connection is idle now, and asked something once
    opened = []
    port = started.client.base_url.port
    for _ in range(100):
        opened.append(socket.create_connection(("127.0.0.1", port or 0), timeout=10))
    started.until(lambda: connections.closed >= 81)
    assert len(connections.silent) + len(connections.idle) + len(connections.busy) == 20
    assert len(connections.idle) == 1
    assert answers(started)
    for raw in opened:
        raw.close()


FLOOD = """
import resource, socket, sys
limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
opened = []
for _ in range(min(10_000, limit - 50)):
    opened.append(socket.create_connection(("127.0.0.1", int(sys.argv[1])), timeout=120))
print(len(opened), flush=True)
sys.stdin.read()
"""


def fastest_answer_s(rig: Rig) -> float:
    """Of fifty: what the machine does beside them says nothing of the fastest."""
    taken_s = []
    for _ in range(50):
        began_s = time.monotonic()
        assert answers(rig)
        taken_s.append(time.monotonic() - began_s)
    return min(taken_s)


def test_ten_thousand_idle_connections(rig: Start) -> None:
    """As many as the limits of a second process allow, up to 10,000: kept to the cap, and nobody is slower for them."""
    connections = Connections(receipt_s=600.0)
    started = rig(connections=connections, one=digest("one"))
    alone_s = fastest_answer_s(started)
    assert connections.most < resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    command = [sys.executable, "-c", FLOOD, str(started.client.base_url.port)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as flood:
        assert flood.stdout is not None
        opened = int(flood.stdout.readline())
        assert opened > 100
        assert answers(started)
        started.until(lambda: connections.closed >= opened - connections.most, 120.0)
        assert len(connections.silent) + len(connections.idle) <= connections.most
        assert fastest_answer_s(started) < 20 * alone_s
        flood.communicate("", timeout=120)


def test_many_slow_senders_at_once(rig: Start) -> None:
    started = rig(one=digest("one"))
    port = started.client.base_url.port or 0
    slow = [socket.create_connection(("127.0.0.1", port), timeout=10) for _ in range(200)]
    for raw in slow:
        raw.sendall(b"POST /prioritize HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n{")
    assert answers(started)
    for raw in slow:
        said = read_all(raw)
        assert b"200 OK" in said
        assert said.endswith(b"[]")
        raw.close()
    assert answers(started)
