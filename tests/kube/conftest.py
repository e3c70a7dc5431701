"""A stub API server and a connection to it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from kube.connection import Connection
from tests.kube.stub_server import StubServer, kubeconfig, stub_server


@pytest.fixture
def stub() -> Iterator[StubServer]:
    with stub_server() as server:
        yield server


@pytest.fixture
def connection(stub: StubServer, tmp_path: Path) -> Iterator[Connection]:
    found = Connection.open(kubeconfig(tmp_path / "kubeconfig", stub.address))
    yield found
    found.close()
