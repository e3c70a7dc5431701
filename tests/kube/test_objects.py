"""Projections of objects as the API server writes them."""

from __future__ import annotations

import msgspec
import pytest

from kube.objects import NODES, PODS, Node, Pod, quantity, time_s


@pytest.mark.parametrize(
    ("text", "value"),
    [("7", 7.0), (7, 7.0), ("500m", 0.5), ("1Ki", 1024.0), ("2M", 2e6), ("1.5Gi", 1.5 * 2**30), ("1e3", 1000.0)],
)
def test_quantities(text: str | int, value: float) -> None:
    assert quantity(text) == value


@pytest.mark.parametrize("text", ["", "x", "1 Gi", "1KiB", "--1", "1.2.3"])
def test_a_quantity_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="quantity"):
        quantity(text)


def test_times() -> None:
    assert time_s("1970-01-01T00:01:00Z") == 60.0
    assert time_s("2026-11-21T10:00:00.123456Z") is not None
    assert time_s("yesterday") is None
    assert time_s(None) is None


def test_paths() -> None:
    assert PODS.path() == "/api/v1/pods"
    assert PODS.path("team", "p", "status") == "/api/v1/namespaces/team/pods/p/status"
    assert NODES.path("team", "n") == "/api/v1/nodes/n"


def test_nulls_and_integers_of_the_api_are_read() -> None:
    node = msgspec.json.decode(
        b'{"metadata":{"name":"n","labels":null},"spec":{},"status":{"allocatable":{"nvidia.com/mig-1g.10gb":7},'
        b'"conditions":[{"type":"Ready","status":"True"}],"nodeInfo":{"x":1}}}',
        type=Node,
    )
    assert node.ready
    assert node.metadata.label("pool", "none") == "none"
    pod = msgspec.json.decode(
        b'{"metadata":{"name":"p","namespace":"d","deletionTimestamp":"2026-01-01T00:00:00Z"},"spec":{"containers":'
        b'[{"ports":[{"name":"grpc","containerPort":8001}]}]},"status":{"phase":"Failed"}}',
        type=Pod,
    )
    assert (pod.metadata.key, pod.terminating, pod.finished, pod.ready) == ("d/p", True, True, False)
    assert (pod.port("grpc", 1), pod.port("http", 2)) == (8001, 2)
