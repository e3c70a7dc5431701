"""Which pods count as renderers and node services, and what is told of them."""

from __future__ import annotations

import time
from typing import Any

import msgspec
import pytest

from kube.connection import Connection
from kube.discovery import NodePods, RendererPods, renderer_of
from kube.objects import Pod
from tests.kube.stub_server import StubServer, pod

READY = [{"type": "Ready", "status": "True"}]


def renderer(name: str, version: int = 1, **metadata: Any) -> dict[str, Any]:
    made = pod(name, version)
    made["metadata"] |= {"labels": {"splatfleet.io/pool": "main"}, **metadata}
    made["spec"] = {"nodeName": "n1", "containers": [{"ports": [{"name": "grpc", "containerPort": 9001}]}]}
    made["status"] = {"phase": "Running", "podIP": "127.0.7.1", "conditions": READY}
    return made


def decoded(document: dict[str, Any]) -> Pod:
    return msgspec.convert(document, Pod)


def test_a_ready_renderer_is_a_row() -> None:
    row = renderer_of(decoded(renderer("a")))
    assert row is not None
    assert (row.uid, row.pool, row.node, row.ready, row.draining) == ("uid-a", "main", "n1", True, False)
    assert (row.grpc_address, row.http_address, row.metrics_address) == (
        "127.0.7.1:9001",
        "127.0.7.1:8000",
        "127.0.7.1:8002",
    )


@pytest.mark.parametrize(
    "metadata",
    [{"annotations": {"splatfleet.io/draining": "true"}}, {"deletionTimestamp": "2026-01-01T00:00:00Z"}],
)
def test_draining_is_told(metadata: dict[str, Any]) -> None:
    row = renderer_of(decoded(renderer("a", **metadata)))
    assert row is not None
    assert row.draining


@pytest.mark.parametrize(
    "status",
    [{"phase": "Pending"}, {"phase": "Running"}, {"phase": "Failed", "podIP": "127.0.7.1"}],
)
def test_a_pod_without_an_address_or_life_is_no_row(status: dict[str, Any]) -> None:
    assert renderer_of(decoded(renderer("a") | {"status": status})) is None
    bare = renderer("a")
    del bare["metadata"]["labels"]
    assert renderer_of(decoded(bare)) is None


def test_watches_tell_rows_and_urls_by_node(stub: StubServer, connection: Connection) -> None:
    stub.put(renderer("b"))
    stub.put(renderer("a"))
    renderers = RendererPods(connection, node="n1").start()
    nodes = NodePods(connection)
    try:
        assert [row.uid for row in renderers.rows()] == ["uid-a", "uid-b"]
        assert renderers.problem == ""
        nodes.reflector.start().wait_synced(5)
        assert nodes.exporters() == {"n1": "http://127.0.7.1:9465"}
        queries = {what for _, what, _, _ in stub.requests}
        assert any("fieldSelector=spec.nodeName%3Dn1" in what for what in queries)
        assert any("labelSelector=app.kubernetes.io%2Fcomponent%3Dnode" in what for what in queries)
    finally:
        renderers.stop()
        nodes.reflector.stop()


def test_before_the_first_list_nothing_is_known(stub: StubServer, connection: Connection) -> None:
    stub.faults.append(("list", 503, None, {"message": "later"}))
    pods = RendererPods(connection)
    assert not pods.synced
    assert "not listed yet" in pods.problem
    pods.reflector.start()
    end_s = time.monotonic() + 5
    while not pods.synced and time.monotonic() < end_s:
        time.sleep(0.02)
    assert pods.problem == ""
    pods.stop()


def test_an_exporter_beside_a_renderer_is_asked_for_by_its_label(stub: StubServer, connection: Connection) -> None:
    made = renderer("a")
    made["spec"]["containers"].append({"ports": [{"name": "exporter", "containerPort": 9465}]})
    stub.put(made)
    nodes = NodePods(connection).start()
    try:
        end_s = time.monotonic() + 20
        label = "labelSelector=splatfleet.io%2Fexporter-beside"  # the stub gives every pod to either watch
        asked = lambda: any(label in what for _, what, _, _ in list(stub.requests))  # noqa: E731
        while not (asked() and nodes.exporters()) and time.monotonic() < end_s:
            time.sleep(0.02)
        assert asked()
        assert nodes.exporters() == {"n1": "http://127.0.7.1:9465"}
    finally:
        nodes.stop()


def test_an_outage_is_over_soon_for_who_routes_by_pods(
    stub: StubServer, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    stub.faults.extend([("list", 503, None, {"message": "later"})] * 12)
    pods = RendererPods(connection)
    pauses_s: list[float] = []

    def pause(seconds: float) -> None:
        pauses_s.append(seconds)
        if len(pauses_s) == 12:
            pods.reflector._stopping.set()

    monkeypatch.setattr(pods.reflector._stopping, "wait", pause)
    pods.reflector.start()
    pods.reflector._thread.join(30.0)
    assert len(pauses_s) == 12
    assert 2.5 <= max(pauses_s) <= 5.0
