"""Credentials, deadlines and errors of raw requests."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from kube import writes
from kube.connection import Connection
from kube.errors import ConfigError, Refused, Unreachable
from kube.objects import PODS, Scale
from tests.kube.stub_server import StubServer, kubeconfig


def test_a_rotated_token_is_read_again_after_a_401(stub: StubServer, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("first\n")
    stub.token = "first"
    connection = Connection.open(kubeconfig(tmp_path / "kubeconfig", stub.address, token, "team"))
    connection._loaded_s -= 60  # it was opened a minute ago
    assert connection.namespace == "team"
    connection.get("/api/v1/pods/x")
    token.write_text("second\n")
    stub.token = "second"
    connection.get("/api/v1/pods/x")
    stub.token = "third"  # which nobody gave us
    with pytest.raises(Refused) as refused:
        connection.get("/api/v1/pods/x")
    assert refused.value.status == 401
    connection.close()


def test_credentials_that_are_no_header_are_not_told(stub: StubServer, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("sec\nret")
    connection = Connection.open(kubeconfig(tmp_path / "kubeconfig", stub.address, token))
    with pytest.raises(Unreachable, match="no header") as unreachable:
        connection.get("/version")
    assert "ret" not in str(unreachable.value).replace("header", "")
    assert unreachable.value.__cause__ is None
    connection.close()


def test_a_stream_that_has_ended_may_still_be_aborted(stub: StubServer, connection: Connection) -> None:
    query = {"watch": "1", "resourceVersion": "0", "timeoutSeconds": "0.1"}
    with connection.stream("/api/v1/pods", query, silence_s=5.0) as stream:
        assert list(stream.lines()) == []
        stream.abort()
    connection.get("/version")  # on a connection that the abort left alone
    stub.faults.append(("watch", 200, {"Connection": "close"}, {"reason": "no watch"}))
    with connection.stream("/api/v1/pods", query, silence_s=5.0) as stream:
        list(stream.lines())
        stream.abort()


def test_a_hung_server_costs_the_deadline_and_no_more(stub: StubServer, connection: Connection) -> None:
    stub.faults.append(("GET", "hang", 10.0))
    begun_s = time.monotonic()
    with pytest.raises(Unreachable, match="Timeout"):
        connection.get("/api/v1/pods/x", deadline_s=0.3)
    assert time.monotonic() - begun_s < 3.0


def test_errors_carry_the_servers_own_words(stub: StubServer, connection: Connection) -> None:
    stub.faults += [
        ("GET", 409, {"Retry-After": "7"}, {"reason": "Conflict", "message": "written in\n between"}),
        ("GET", 503, {"Retry-After": "soon"}, {"message": None}),
    ]
    with pytest.raises(Refused, match="409 Conflict: written in between") as refused:
        connection.get("/api/v1/pods/x")
    assert refused.value.conflict
    assert refused.value.retry_after_s == 7.0
    with pytest.raises(Refused, match="503 Unknown") as refused:
        connection.get("/api/v1/pods/x")
    assert refused.value.retry_after_s is None


def test_a_dead_address_and_a_missing_file_name_themselves(tmp_path: Path) -> None:
    connection = Connection.open(kubeconfig(tmp_path / "kubeconfig", "http://127.0.0.1:9"))
    with pytest.raises(Unreachable, match="127.0.0.1:9"):
        connection.get("/version")
    with pytest.raises(ConfigError, match="absent.*set KUBECONFIG"):
        Connection.open(tmp_path / "absent")


def test_writes_are_what_the_api_expects(stub: StubServer, connection: Connection) -> None:
    writes.annotate(connection, PODS, "p", "default", {"a": "1", "b": None})
    writes.patch(connection, PODS.path("default", "p"), [{"op": "remove", "path": "/metadata/labels/x"}])
    writes.delete(connection, PODS.path("default", "p"), grace_s=5, uid="u")
    scaled = writes.ScaleTarget("/apis/apps/v1/namespaces/default/deployments/d").set(connection, 3, "17")
    assert isinstance(scaled, Scale)
    sent = [(what, headers.get("Content-Type"), body) for _, what, headers, body in stub.requests]
    assert sent == [
        (
            "PATCH /api/v1/namespaces/default/pods/p",
            "application/merge-patch+json",
            b'{"metadata":{"annotations":{"a":"1","b":null}}}',
        ),
        (
            "PATCH /api/v1/namespaces/default/pods/p",
            "application/json-patch+json",
            b'[{"op":"remove","path":"/metadata/labels/x"}]',
        ),
        (
            "DELETE /api/v1/namespaces/default/pods/p",
            "application/json",
            b'{"kind":"DeleteOptions","apiVersion":"v1","gracePeriodSeconds":5,"preconditions":{"uid":"u"}}',
        ),
        (
            "PATCH /apis/apps/v1/namespaces/default/deployments/d/scale",
            "application/merge-patch+json",
            b'{"spec":{"replicas":3},"metadata":{"resourceVersion":"17"}}',
        ),
    ]
