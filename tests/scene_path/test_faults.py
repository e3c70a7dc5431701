"""What networks, servers, peers and disks do to a fetch: never half-visible, never lost, never wrong."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest

from fleet import metrics
from renderer.busy_server import parse_retry_after
from renderer.catalogue import CatalogueEntry
from renderer.credentials import BearerTokens
from renderer.fetch_terms import Stopped, Terms
from renderer.peers import Peers
from renderer.scene_roots import ANYWHERE, parse_roots
from renderer.scene_source import SourceError, digest_of
from renderer.scene_store import FetchFailed, SceneStore
from renderer.store_space import StoreFull
from renderer.web_client import Access, WebClient
from renderer.web_source import WebSource
from tests.scene_path.agents import MB, TOKEN, entry_of, make_scene, wait_for
from tests.scene_path.conftest import StartAgent
from tests.scene_path.fault_server import Answer, FaultServer, Request, fault_server, well

CHUNK_BYTES = 256 << 10  # what a connection that breaks may cost


@pytest.fixture
def scene(tmp_path: Path) -> Path:
    make_scene(tmp_path / "ball.ply", 10_000)
    return tmp_path / "ball.ply"


@pytest.fixture
def served(scene: Path) -> Iterator[FaultServer]:
    with fault_server(scene.read_bytes()) as server:
        yield server


def store_in(tmp_path: Path, name: str = "store") -> SceneStore:
    return SceneStore(tmp_path / name, 100 * MB)


def nothing_is_left(store: SceneStore) -> None:
    assert store.records() == ()
    assert [path for path in store.layout.objects.iterdir() if path.is_dir()] == []
    assert [path.name for path in store.layout.fetching.iterdir() if path.suffix in (".json", ".reserve")] == []


def nothing_is_left_but_parts(store: SceneStore) -> None:
    assert store.records() == ()
    assert [path for path in store.layout.fetching.iterdir() if path.suffix in (".json", ".reserve")] == []


def visible_is_sound(store: SceneStore, entry: CatalogueEntry) -> None:
    assert [record.digest for record in store.records()] == [entry.digest]
    assert digest_of(store.layout.object_dir(str(entry.digest)) / "source") == entry.digest
    assert list(store.layout.fetching.iterdir()) == []


def half(request: Request) -> None:
    """Half of what was asked for, then the connection closes."""
    content = request.body[request.start : request.end]
    request.send_range(content[: max(1, len(content) // 2)], announced=len(content))


def after(count: int, bad: Answer, good: Answer = well) -> Answer:
    """`bad` for the first `count` requests."""
    return lambda request: bad(request) if request.number <= count else good(request)


def test_body_that_breaks_off_is_resumed_where_it_broke(tmp_path: Path, scene: Path, served: FaultServer) -> None:
    served.answer = after(2, half)
    entry = entry_of(scene, served.url)
    stored = store_in(tmp_path).ensure(entry)
    assert stored.fetched_bytes == entry.source_bytes, "bytes that lay there were fetched again"
    firsts = [int(asked["range"].removeprefix("bytes=").partition("-")[0]) for asked in served.asked[1:]]
    assert 0 < firsts[0] < firsts[1]
    assert "range" not in served.asked[0]
    assert served.asked[-1]["range"].startswith("bytes=")
    visible_is_sound(store_in(tmp_path), entry)


def test_server_that_never_sends_a_byte_fails_by_name(tmp_path: Path, scene: Path, served: FaultServer) -> None:
    served.answer = lambda request: request.send_range(b"", announced=10)
    store = store_in(tmp_path)
    with pytest.raises(FetchFailed, match=r"scene ball: http://127.0.0.1:\d+/v1/scene.ply"):
        store.ensure(entry_of(scene, served.url), terms=Terms(retries=1))
    nothing_is_left(store)


def test_wrong_bytes_of_the_right_length(tmp_path: Path, scene: Path, served: FaultServer) -> None:
    served.body = bytes(len(served.body))
    store = store_in(tmp_path)
    with pytest.raises(FetchFailed, match=r"sha256 is [0-9a-f]{64}, the catalogue says [0-9a-f]{64}"):
        store.ensure(entry_of(scene, served.url))
    nothing_is_left(store)


def test_wrong_length_is_refused_before_a_byte(tmp_path: Path, scene: Path, served: FaultServer) -> None:
    served.head_bytes += 10_000_000_000
    store = store_in(tmp_path)
    with pytest.raises(FetchFailed, match=r"has \d+ bytes, the catalogue says \d+"):
        store.ensure(entry_of(scene, served.url))
    assert served.asked == []
    nothing_is_left(store)


@pytest.mark.parametrize("change_bytes", [-1000, 1000])
def test_body_of_another_length_than_announced(
    tmp_path: Path, scene: Path, served: FaultServer, change_bytes: int
) -> None:
    entry = entry_of(scene, served.url)
    served.answer = lambda request: request.send(200, (request.body + bytes(1000))[: len(request.body) + change_bytes])
    store = store_in(tmp_path)
    with pytest.raises(FetchFailed, match=r"scene.ply came with \d+ bytes, \d+ were announced"):
        store.ensure(entry, terms=Terms(retries=1))
    nothing_is_left(store)


@pytest.mark.parametrize("status", [403, 404, 416])
def test_refusals_are_not_tried_again(tmp_path: Path, scene: Path, served: FaultServer, status: int) -> None:
    served.answer = lambda request: request.send(status)
    store = store_in(tmp_path)
    with pytest.raises(FetchFailed, match=r"no such file" if status == 404 else str(status)):
        store.ensure(entry_of(scene, served.url))
    assert len(served.asked) == 1
    nothing_is_left(store)


def test_busy_server_is_left_alone_for_as_long_as_it_asks(tmp_path: Path, scene: Path, served: FaultServer) -> None:
    def busy(request: Request) -> None:
        request.send(503, Retry_After="2")

    served.answer = after(1, busy)
    entry = entry_of(scene, served.url)
    store = store_in(tmp_path)
    began_s = time.monotonic()
    assert store.ensure(entry).fetched_bytes == entry.source_bytes
    assert time.monotonic() - began_s >= 2.0, "asked again sooner than the server wanted"
    assert len(served.asked) == 2
    visible_is_sound(store, entry)


def test_retry_after_is_capped_by_the_deadline(tmp_path: Path, scene: Path, served: FaultServer) -> None:
    served.answer = lambda request: request.send(503, Retry_After="3600")
    store = store_in(tmp_path)
    began_s = time.monotonic()
    with pytest.raises(FetchFailed, match=r"bytes had come when the time for it was over"):
        store.ensure(entry_of(scene, served.url), terms=Terms(end_s=began_s + 1.0))
    assert time.monotonic() - began_s < 10.0
    with pytest.raises(Stopped):
        store.ensure(entry_of(scene, served.url), terms=Terms(stopped=lambda: time.monotonic() > began_s + 3.0))
    nothing_is_left_but_parts(store)


def test_busy_server_that_does_not_say_for_how_long_is_asked_again(
    tmp_path: Path, scene: Path, served: FaultServer
) -> None:
    served.answer = after(3, lambda request: request.send(503))
    entry = entry_of(scene, served.url)
    store = store_in(tmp_path)
    assert store.ensure(entry).fetched_bytes == entry.source_bytes
    visible_is_sound(store, entry)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("7", 7.0), (" 0 ", 0.0), ("99999", 120.0), ("Wed, 21 Oct 2015 07:28:30 GMT", 30.0), ("soon", None), ("-1", None)],
)
def test_retry_after_is_a_number_or_a_date(text: str, seconds: float | None) -> None:
    assert parse_retry_after(text, datetime(2015, 10, 21, 7, 28, tzinfo=UTC)) == seconds


def test_trickle_ends_with_the_total_deadline(tmp_path: Path, scene: Path, served: FaultServer) -> None:
    served.answer = lambda request: request.trickle(1000, 0.05)
    store = store_in(tmp_path)
    began_s = time.monotonic()
    with pytest.raises(FetchFailed, match=r"of \d+ bytes had come when the time for it was over"):
        store.ensure(entry_of(scene, served.url), terms=Terms(end_s=began_s + 0.5))
    assert time.monotonic() - began_s < 5
    nothing_is_left(store)


def test_stop_is_obeyed_by_a_silent_server(tmp_path: Path, scene: Path, served: FaultServer) -> None:
    served.answer = lambda request: request.trickle(10, 3.0)
    began_s = time.monotonic()
    with pytest.raises(Stopped):
        store_in(tmp_path).ensure(
            entry_of(scene, served.url), terms=Terms(stopped=lambda: time.monotonic() > began_s + 0.3)
        )
    assert time.monotonic() - began_s < 3


def redirect(to: str) -> Answer:
    return lambda request: request.send(302, Location=to)


def elsewhere(server: FaultServer) -> str:
    """The same server under another name."""
    return server.url.replace("127.0.0.1", "localhost")


def test_redirect_to_another_host_drops_the_credentials(tmp_path: Path, scene: Path, served: FaultServer) -> None:
    token = {"authorization": f"Bearer {TOKEN}", "x-amz-security-token": TOKEN}
    with fault_server(scene.read_bytes(), redirect(elsewhere(served))) as first:
        source = WebSource(
            first.url, ("v1/", "scene.ply"), lambda _verb, _key: first.url, Access(token, roots=ANYWHERE), Terms()
        )
        store = store_in(tmp_path)
        entry = entry_of(scene, first.url)
        record = store._fetch.bring(entry, str(entry.digest), source, Terms()).record
    assert record.digest == entry.digest
    assert [asked["authorization"] for asked in first.asked] == [f"Bearer {TOKEN}"]
    assert len(served.asked) == 1
    assert TOKEN not in str(served.asked)


@pytest.mark.parametrize("is_head", [True, False])
def test_redirect_out_of_the_allowed_roots_is_refused(
    tmp_path: Path, scene: Path, served: FaultServer, is_head: bool
) -> None:
    with fault_server(scene.read_bytes(), redirect(elsewhere(served))) as first:
        first.head_redirect = elsewhere(served) if is_head else ""
        root = first.url.removesuffix("/scene.ply")
        store = SceneStore(tmp_path / "store", 100 * MB, roots=parse_roots([root]))
        with pytest.raises(FetchFailed, match=f"redirects to http://localhost, outside the allowed roots {root}$"):
            store.ensure(entry_of(scene, first.url))
        nothing_is_left(store)
        assert served.asked == [], "the other host was asked"


def test_redirect_inside_the_allowed_roots_is_followed(tmp_path: Path, scene: Path, served: FaultServer) -> None:
    with fault_server(scene.read_bytes(), redirect(served.url)) as first:
        roots = parse_roots([server.url.removesuffix("/scene.ply") for server in (first, served)])
        store = SceneStore(tmp_path / "store", 100 * MB, roots=roots)
        entry = entry_of(scene, first.url)
        store.ensure(entry)
    visible_is_sound(store, entry)
    assert len(served.asked) == 1


@pytest.mark.parametrize(
    ("location", "judgement"),
    [
        ("http://cdn.example/b.ply", "redirects to http://cdn.example, without TLS"),
        ("ftp://cdn.example/b.ply", "redirects to no address"),
        ("https://somebody:password@cdn.example/b.ply", "redirects to no address"),
        ("", "redirects to no address"),
        ("https://other.example/b.ply?sig=secret", "redirects to https://other.example, outside the allowed roots"),
        ("/v1/b.ply", ""),
        ("https://cdn.example/v1/b.ply?sig=secret", ""),
        ("/v2/b.ply", "redirects to https://cdn.example, outside the allowed roots"),
    ],
)
def test_where_a_redirect_may_lead(location: str, judgement: str) -> None:
    client = WebClient("https://cdn.example/v1/a.ply", Access(roots=parse_roots(["https://cdn.example/v1"])))
    if not judgement:
        assert client._judged("https://cdn.example/v1/a.ply", location).endswith(location)
        return
    with pytest.raises(SourceError, match=judgement) as caught:
        client._judged("https://cdn.example/v1/a.ply", location)
    assert "secret" not in str(caught.value)
    assert "password" not in str(caught.value)


def test_redirect_that_never_ends(tmp_path: Path, scene: Path, served: FaultServer) -> None:
    served.answer = redirect(served.url)
    store = store_in(tmp_path)
    with pytest.raises(FetchFailed, match="more than 5 redirects"):
        store.ensure(entry_of(scene, served.url))
    assert len(served.asked) == 6
    nothing_is_left(store)


def test_redirect_of_an_object_store_takes_no_credential_along(
    tmp_path: Path, scene: Path, served: FaultServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not even the session token, which S3 clients send in a header of its own."""
    session = "session-token-of-the-tests-0123456789"
    with fault_server(scene.read_bytes(), redirect(elsewhere(served))) as first:
        told = {"AWS_ENDPOINT_URL": first.url.removesuffix("/v1/scene.ply"), "AWS_REGION": "us-east-1"}
        told |= {"AWS_ACCESS_KEY_ID": "AKID0123456789", "AWS_SECRET_ACCESS_KEY": "secret-key-of-the-tests-0123"}
        for name, value in {**told, "AWS_SESSION_TOKEN": session}.items():
            monkeypatch.setenv(name, value)
        store = store_in(tmp_path)
        with pytest.raises(FetchFailed, match="redirects to http://localhost, and is not followed anywhere"):
            store.ensure(entry_of(scene, "s3://scenes/v1/scene.ply"))
        assert len(first.asked) == 1
    assert served.asked == []
    nothing_is_left(store)


def test_scene_through_a_proxy(
    tmp_path: Path, scene: Path, served: FaultServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", served.url)
    monkeypatch.setenv("no_proxy", "")
    entry = entry_of(scene, "http://scenes.invalid/v1/scene.ply")
    store = store_in(tmp_path)
    store.ensure(entry)
    assert [asked["host"] for asked in served.asked] == ["scenes.invalid"]
    visible_is_sound(store, entry)


@contextmanager
def mounted(folder: Path, options: str) -> Iterator[Path]:
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", options, "none", str(folder)]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("a tmpfs cannot be mounted here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def test_disk_without_inodes_is_said(tmp_path: Path, scene: Path) -> None:
    with mounted(tmp_path / "few", "size=50m,nr_inodes=12") as disk:
        store = SceneStore(disk / "store", 40 * MB)
        with pytest.raises(StoreFull, match=r"is full .No space left on device"):
            store.ensure(entry_of(scene))
        nothing_is_left(store)


def test_disk_that_became_read_only_is_said_and_still_read(tmp_path: Path, scene: Path) -> None:
    make_scene(tmp_path / "other.ply")
    with mounted(tmp_path / "disk", "size=50m") as disk:
        store = SceneStore(disk / "store", 40 * MB)
        store.ensure(entry_of(scene))
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        with pytest.raises(FetchFailed, match=r"scene other: .*Read-only file system"):
            store.ensure(entry_of(tmp_path / "other.ply"))
        with store.open(entry_of(scene).id) as held:
            assert held.read().count == 10_000


@pytest.fixture
def tokens(tmp_path: Path) -> BearerTokens:
    (tmp_path / "token").write_text(TOKEN + "\n")
    return BearerTokens(tmp_path / "token")


@dataclasses.dataclass
class Fetches:
    remote_bytes: int = 0
    peer_bytes: int = 0

    def remote(self, count: int) -> None:
        self.remote_bytes += count

    def peer(self, count: int) -> None:
        self.peer_bytes += count


def lies(request: Request) -> None:
    request.send_range(bytes(request.end - request.start))


def gone(request: Request) -> None:
    request.send(404)


@pytest.mark.parametrize(
    ("answer", "head_factor", "share_of_remote"),
    [(well, 1, 0.0), (half, 1, 0.5), (lies, 1, 1.0), (gone, 1, 1.0), (well, 10_000, 1.0)],
    ids=["honest", "dies", "lies", "forgot", "boasts"],
)
def test_peer_first_and_the_object_store_for_the_rest(
    tmp_path: Path, scene: Path, served: FaultServer, tokens: BearerTokens,
    answer: Callable[[Request], None], head_factor: int, share_of_remote: float,
) -> None:  # fmt: skip
    entry = entry_of(scene, served.url)
    total_bytes = scene.stat().st_size
    seen = Fetches()
    with fault_server(scene.read_bytes(), answer) as peer:
        peer.head_bytes *= head_factor
        peers = Peers([peer.url.removesuffix("/v1/scene.ply")], tokens, seen.peer)
        store = SceneStore(tmp_path / "store", 100 * MB, on_fetched=seen.remote, peers=peers)
        store.ensure(entry)
        asked = len(peer.asked)
        store.evict(entry.id)
        store.ensure(entry)
    visible_is_sound(store, entry)
    first_remote_bytes = seen.remote_bytes - (total_bytes if share_of_remote else 0)
    assert first_remote_bytes == pytest.approx(share_of_remote * total_bytes, abs=CHUNK_BYTES)
    if share_of_remote:
        assert len(peer.asked) == asked, "a peer that failed was asked again at once"
        assert len(peers.faults) == 1
    assert all(each["authorization"] == f"Bearer {TOKEN}" for each in peer.asked)
    assert not any("authorization" in each for each in served.asked), "the object store got the agents' token"


def test_scene_from_a_real_peer_costs_the_object_store_nothing(
    scene: Path, served: FaultServer, start_agent: StartAgent
) -> None:
    entry = entry_of(scene, served.url)
    first = start_agent("node-1", [entry])
    first.client.ask("ball", 30.0)
    first.wait_state("ball", "stored")
    asked = len(served.asked)
    second = start_agent("node-2", [entry], "--peer", f"node-1={first.url}")
    second.client.ask("ball", 30.0)
    second.wait_state("ball", "stored")
    assert len(served.asked) == asked
    assert second.count(metrics.AGENT_FETCHED_BYTES, source="peer") == entry.source_bytes
    rates = json.loads(second.layout.store_file.read_bytes())
    assert rates["peer_bytes_per_s"] > 0
    assert not rates["fetch_bytes_per_s"]
    assert first.count(metrics.AGENT_SERVED_BYTES) == entry.source_bytes
    first.kill()
    second.client.evict("ball")
    second.client.ask("ball", 30.0)
    second.wait_state("ball", "stored")
    assert second.count(metrics.AGENT_FETCHED_BYTES, source="remote") == entry.source_bytes
    with pytest.raises(ProcessLookupError):
        os.kill(first.process.pid, 0)


def test_two_pods_and_the_agent_fetch_one_object_once(
    scene: Path, served: FaultServer, start_agent: StartAgent
) -> None:
    entry = entry_of(scene, served.url)
    agent = start_agent("node-1", [entry])
    seen = Fetches()
    pods = [SceneStore(agent.layout.root, 100 * MB, on_fetched=seen.remote) for _ in range(2)]
    with ThreadPoolExecutor(2) as threads:
        agent.client.ask("ball", 30.0)
        stored = list(threads.map(lambda pod: pod.ensure(entry), pods))
    wait_for(lambda: agent.state("ball") in ("stored", ""))
    by_agent = agent.count(metrics.AGENT_FETCHED_BYTES, source="remote")
    assert by_agent + seen.remote_bytes == entry.source_bytes
    assert {each.record.digest for each in stored} == {entry.digest}
