"""An API server behind a proxy: tunnelled to by TLS with the proxy's credentials, or asked directly where told so."""

from __future__ import annotations

import json
import socket
import ssl
import threading
from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import trustme

from kube.connection import Connection
from kube.errors import ConfigError, Unreachable
from tests.kube.stub_server import StubServer, kubeconfig, pod, stub_server


@contextmanager
def connect_proxy() -> Iterator[tuple[int, list[bytes]]]:
    """Its port, and the heads of what it was asked; each tunnel is a pair of threads."""
    heads: list[bytes] = []
    listener = socket.create_server(("127.0.0.1", 0))

    def copy(source: socket.socket, target: socket.socket) -> None:
        try:
            while data := source.recv(1 << 16):
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)
        except OSError:
            pass

    def tunnel(client: socket.socket) -> None:
        with client:
            head = b""
            while b"\r\n\r\n" not in head:
                head += client.recv(1 << 12)
            heads.append(head)
            host, _, port = head.split(b" ")[1].decode().rpartition(":")
            with socket.create_connection((host, int(port))) as server:
                client.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
                back = threading.Thread(target=copy, args=(server, client), daemon=True)
                back.start()
                copy(client, server)
                back.join(10)

    def accept() -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=tunnel, args=(client,), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield listener.getsockname()[1], heads
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()


@pytest.fixture
def tls_stub(tmp_path: Path) -> Iterator[tuple[StubServer, Path]]:
    """A stub API server that speaks TLS, and a kubeconfig that trusts it."""
    authority = trustme.CA()
    with stub_server() as stub:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert("127.0.0.1").configure_cert(context)
        stub.server.socket = context.wrap_socket(stub.server.socket, server_side=True)
        found = kubeconfig(tmp_path / "kubeconfig", stub.address.replace("http:", "https:"))
        document = json.loads(found.read_text())
        told = b64encode(authority.cert_pem.bytes()).decode()
        document["clusters"][0]["cluster"]["certificate-authority-data"] = told
        found.write_text(json.dumps(document))
        yield stub, found


def through(found: Path, url: str) -> Path:
    document = json.loads(found.read_text())
    document["clusters"][0]["cluster"]["proxy-url"] = url
    found.write_text(json.dumps(document))
    return found


def test_requests_and_watches_go_through_the_proxy_of_a_kubeconfig(tls_stub: tuple[StubServer, Path]) -> None:
    stub, found = tls_stub
    stub.put(pod("first", 11), "ADDED")
    with connect_proxy() as (port, heads):
        connection = Connection.open(through(found, f"http://us%3Aer:pass@127.0.0.1:{port}"))
        assert json.loads(connection.get("/api/v1/pods/x"))["metadata"]["name"] == "x"
        query = {"watch": "1", "resourceVersion": "0", "timeoutSeconds": "5"}
        with connection.stream("/api/v1/pods", query, silence_s=5.0) as stream:
            lines = stream.lines()
            assert json.loads(next(lines))["object"]["metadata"]["name"] == "first"
            stub.put(pod("second", 12), "ADDED")
            assert json.loads(next(lines))["object"]["metadata"]["name"] == "second"
            stream.abort()  # ends the tunnel, so that nothing waits for the watch's own end
            with pytest.raises((Unreachable, StopIteration)):
                next(lines)
        connection.close()
        assert heads
        for head in heads:
            assert head.startswith(b"CONNECT 127.0.0.1:%d " % stub.server.server_port)
            assert b"basic " + b64encode(b"us:er:pass") in head.replace(b"Basic", b"basic")


def test_the_environment_names_a_proxy_and_whom_it_is_not_for(
    tls_stub: tuple[StubServer, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, found = tls_stub
    for name in ("https_proxy", "no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with connect_proxy() as (port, heads):
        monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{port}")
        connection = Connection.open(found)
        connection.get("/api/v1/pods/x")
        connection.close()
        assert len(heads) == 1
        monkeypatch.setenv("HTTPS_PROXY", f"127.0.0.1:{port}")  # as curl takes it, too
        connection = Connection.open(found)
        connection.get("/api/v1/pods/x")
        connection.close()
        assert len(heads) == 2
        monkeypatch.setenv("NO_PROXY", "kubernetes.default.svc,127.0.0.0/8")
        connection = Connection.open(found)
        connection.get("/api/v1/pods/x")
        connection.close()
        assert len(heads) == 2


def test_a_proxy_that_cannot_be_used_names_the_fix(tls_stub: tuple[StubServer, Path]) -> None:
    for url in ("socks5://user:secret@127.0.0.1:1080", "http://user:secret@proxy:port", "https://", "http://[::1"):
        with pytest.raises(ConfigError, match=r"cannot be used.*expected http://HOST:PORT.*NO_PROXY") as refused:
            Connection.open(through(tls_stub[1], url))
        assert "secret" not in str(refused.value)
    with connect_proxy() as (port, _):
        pass  # nobody listens there any more
    connection = Connection.open(through(tls_stub[1], f"http://127.0.0.1:{port}"))
    with pytest.raises(Unreachable, match="[Pp]roxy"):
        connection.get("/version")
    connection.close()
