"""An agent over its life: TLS that reloads, asks that outlive it, what it fetches while nobody asks."""

from __future__ import annotations

import ssl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import httpx2
import pytest
import trustme

from fleet import metrics
from fleet.metrics import GATEWAY_REQUESTS
from kube.tls import ClientTls
from renderer.agent_client import AgentClient, AgentError
from renderer.credentials import BearerTokens
from renderer.popularity import Popularity, most_wanted
from renderer.scene_store import SceneStore
from tests.scene_path.agents import MB, Agent, entry_of, make_scene, wait_for
from tests.scene_path.conftest import StartAgent


class Certificates:
    """A CA and what it issued, as files."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self._folder, self._ca = folder, trustme.CA()
        self.ca = folder / "ca.pem"
        self._ca.cert_pem.write_to_path(str(self.ca))

    def issue(self, name: str) -> tuple[Path, Path]:
        """Certificate and key, swapped into place whole."""
        made = self._ca.issue_cert("127.0.0.1", "localhost", common_name=name)
        paths = self._folder / f"{name}.crt", self._folder / f"{name}.key"
        for path, blob in zip(paths, (made.cert_chain_pems[0], made.private_key_pem), strict=True):
            blob.write_to_path(str(path) + ".new")
            Path(str(path) + ".new").rename(path)
        return paths


@pytest.fixture
def certificates(tmp_path: Path) -> Certificates:
    return Certificates(tmp_path / "certificates")


def tls_flags(certificates: Certificates, *names: str) -> list[str]:
    certificate, key = certificates.issue(names[0])
    return [
        *("--tls-certificate", str(certificate), "--tls-key", str(key)),
        *("--client-ca", str(certificates.ca), "--peer-ca", str(certificates.ca)),
    ]


def serial(agent: Agent, certificates: Certificates, shown: tuple[Path, Path]) -> int:
    context = ssl.create_default_context(cafile=str(certificates.ca))
    context.load_cert_chain(*shown)
    host, _, port = agent.url.removeprefix("https://").partition(":")
    import socket

    with socket.create_connection((host, int(port))) as raw, context.wrap_socket(raw, server_hostname=host) as wire:
        found = wire.getpeercert()
    assert found is not None
    return int(str(found["serialNumber"]), 16)


def test_agents_over_mutual_tls(tmp_path: Path, certificates: Certificates, start_agent: StartAgent) -> None:
    make_scene(tmp_path / "ball.ply")
    entry = entry_of(tmp_path / "ball.ply")
    first = start_agent("node-1", [entry], *tls_flags(certificates, "node-1"))
    assert first.url.startswith("https://")
    shown = certificates.issue("client")
    tls = ClientTls(certificates.ca, *shown)
    client = AgentClient(first.url, BearerTokens(first.token_file), tls=tls)
    client.ask("ball", 30.0)
    wait_for(lambda: [scene["id"] for scene in client.listing()["scenes"]] == ["ball"])
    second = start_agent("node-2", [entry], "--peer", f"node-1={first.url}", *tls_flags(certificates, "node-2"))
    other = AgentClient(second.url, BearerTokens(second.token_file), tls=tls)
    other.ask("ball", 30.0)
    wait_for(lambda: other.counter(metrics.AGENT_FETCHED_BYTES, source="peer") == entry.source_bytes)
    for stranger in (None, ClientTls(certificates.ca)):
        with pytest.raises(AgentError):
            AgentClient(first.url, BearerTokens(first.token_file), tls=stranger).listing()

    before = serial(first, certificates, shown)
    certificates.issue("node-1")
    wait_for(lambda: serial(first, certificates, shown) != before, "the new certificate was not taken")
    certificates.issue("client")
    assert client.listing()["node"] == "node-1", "a client's own certificate is read again too"


def test_asks_outlive_the_agent(tmp_path: Path, start_agent: StartAgent) -> None:
    make_scene(tmp_path / "slow.ply", 20_000)
    make_scene(tmp_path / "next.ply")
    slow, following = (entry_of(tmp_path / f"{name}.ply") for name in ("slow", "next"))
    rate = str((slow.source_bytes or 0) / 8 / 1e6)
    agent = start_agent("node-1", [slow, following], "--slots", "1", "--fetch-mb-per-s", rate)
    agent.client.ask("slow", deadline_s=60.0, priority=5)
    agent.client.ask("next", deadline_s=90.0)
    asks = agent.layout.root / "asks.json"
    wait_for(lambda: asks.exists() and "next" in asks.read_text())
    agent.kill()
    again = start_agent("node-1", [slow, following])
    wait_for(lambda: again.stored() == {"slow", "next"}, "nobody asked again, so nothing came")
    wait_for(lambda: again.count(metrics.AGENT_DEADLINES, outcome="met") == 2)
    wait_for(lambda: "slow" not in asks.read_text(), "an ask that ended is still written down")


@contextmanager
def gateway(counts: dict[str, float]) -> Iterator[str]:
    """The wire of a gateway's /metrics."""

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None: ...

        def do_GET(self) -> None:
            rows = (f'{GATEWAY_REQUESTS.name}{{pool="a",scene="{scene}"}} {count}' for scene, count in counts.items())
            body = (f"# TYPE {GATEWAY_REQUESTS.name} counter\n" + "\n".join(rows) + "\n").encode()
            self.send_response(200)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_idle_agent_fetches_what_the_fleet_wants_into_free_room(tmp_path: Path, start_agent: StartAgent) -> None:
    names = ("popular", "seldom", "never", "asked")
    for seed, name in enumerate(names):
        make_scene(tmp_path / f"{name}.ply", 3000, seed)
    entries = {name: entry_of(tmp_path / f"{name}.ply") for name in names}
    one_bytes = 2 * (entries["asked"].source_bytes or 0) + 100_000  # with its packed layout
    counts = {"popular": 10.0, "seldom": 10.0, "never": 10.0, "unknown": 99.0}
    with gateway(counts) as url:
        flags = ("--gateway", url, "--preload-every-s", "0.1", "--preload-share", "0.6")
        agent = start_agent("node-1", list(entries.values()), *flags, capacity_bytes=3 * one_bytes)
        agent.client.ask("asked", 30.0)
        agent.wait_state("asked", "stored")
        time.sleep(0.5)
        assert agent.stored() == {"asked"}, "a counter that does not grow is no demand"
        counts |= {"popular": 60.0, "seldom": 12.0, "unknown": 999.0}
        wait_for(lambda: "popular" in agent.stored())
        time.sleep(0.5)
        assert agent.stored() == {"asked", "popular"}, "more than its share of the room was taken"
        assert agent.count(metrics.AGENT_PRELOADS) == 1
        assert agent.count(metrics.AGENT_DEADLINES, outcome="missed") == 0


def test_preload_never_evicts(tmp_path: Path) -> None:
    for seed, name in enumerate(("here", "wanted")):
        make_scene(tmp_path / f"{name}.ply", seed=seed)
    here, wanted = (entry_of(tmp_path / f"{name}.ply") for name in ("here", "wanted"))
    store = SceneStore(tmp_path / "store", 10 * MB)
    store.ensure(here)
    entries = {entry.id: entry for entry in (here, wanted)}
    need_bytes = (wanted.source_bytes or 0) * 2
    assert most_wanted({"here": 9.0, "wanted": 1.0}, entries, {"here"}, need_bytes) == "wanted"
    assert most_wanted({"here": 9.0, "wanted": 1.0}, entries, {"here"}, need_bytes / 3) is None
    assert most_wanted({"wanted": 0.0}, entries, set(), need_bytes) is None


def test_popularity_fades_and_survives_a_gateway_that_restarts() -> None:
    seen = Popularity()
    seen.add("g1", {"a": 1000.0}, 0.0)
    assert seen.requests == {}, "what a counter was before we looked is not of now"
    seen.add("g1", {"a": 1100.0, "b": 5.0}, 10.0)
    assert seen.requests == pytest.approx({"a": 100.0, "b": 5.0})
    seen.add("g1", {"a": 7.0}, 610.0)
    assert seen.requests == pytest.approx({"a": 57.0, "b": 2.5})


def test_token_file_for_a_client_rotates(tmp_path: Path, start_agent: StartAgent) -> None:
    make_scene(tmp_path / "ball.ply")
    agent = start_agent("node-1", [entry_of(tmp_path / "ball.ply")])
    agent.token_file.write_text("another-token-of-tests-0123\n")
    assert agent.client.listing()["node"] == "node-1", "client and server read the file again"
    old = httpx2.get(agent.url + "/v1/scenes", headers={"authorization": "Bearer token-of-the-tests-0123456789"})
    assert old.status_code == 401
