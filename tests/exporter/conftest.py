"""Stores on disk, servers at the wire and the exporter as a process."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.exporter.surroundings import Exporter, MetricsServer, Store

HERE = Path(__file__).resolve().parent


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


@pytest.fixture(scope="session")
def triton_text() -> str:
    """What a real Triton 2.51 wrote under load."""
    return (HERE / "triton-metrics-sample.txt").read_text()


@pytest.fixture
def serve_metrics() -> Iterator[Callable[[str], MetricsServer]]:
    servers: list[MetricsServer] = []

    def start(text: str) -> MetricsServer:
        servers.append(MetricsServer(text))
        return servers[-1]

    yield start
    for server in servers:
        server.stop()


@pytest.fixture
def serve_bytes() -> Iterator[Callable[..., str]]:
    """Start a TCP server that reads the request, sends these chunks, then closes, or hangs until the test is over."""
    over = threading.Event()
    threads: list[threading.Thread] = []
    listeners: list[socket.socket] = []

    def start(*chunks: bytes, hang: bool = False, pause_s: float = 0.0) -> str:
        listener = socket.create_server(("127.0.0.1", 0))
        listener.settimeout(0.1)
        listeners.append(listener)

        def answer(connection: socket.socket) -> None:
            with connection, contextlib.suppress(OSError):
                connection.recv(65536)
                for chunk in chunks:
                    connection.sendall(chunk)
                    over.wait(pause_s)
                if hang:
                    over.wait(20)

        def accept() -> None:
            while not over.is_set():
                with contextlib.suppress(TimeoutError):
                    connection, _ = listener.accept()
                    threads.append(threading.Thread(target=answer, args=(connection,)))
                    threads[-1].start()

        threads.append(threading.Thread(target=accept))
        threads[-1].start()
        return f"127.0.0.1:{listener.getsockname()[1]}"

    yield start
    over.set()
    for thread in threads:
        thread.join()
    for listener in listeners:
        listener.close()


@pytest.fixture
def start_exporter(tmp_path: Path) -> Iterator[Callable[..., Exporter]]:
    running: list[Exporter] = []

    def start(*flags: str) -> Exporter:
        running.append(Exporter(list(flags), tmp_path / f"exporter-{len(running)}.log"))
        return running[-1]

    yield start
    for exporter in running:
        exporter.stop()
