"""How fast a scene comes to a node and from there to its first frame, by where it lay.

Fetches are from a real S3 server on this machine where there is one (see s3_server), with one request at a time and
with eight, and from another node's agent; beside each a plain `curl` of the same object from the same server, and how
fast that is with the sync and the sha256 that our fetches end with. The disk stages drop the files from the page cache
first. The first visitor comes to a pod of an empty node whose line to the object store takes three seconds for the
scene: unannounced, or a minute after its agent and the pod were told. Every figure is the median of the rounds, the
visitors' is of one.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.machine import Machine, describe
from benchmarks.s3_server import S3Server, free_port, s3_server
from benchmarks.uncounted import Uncounted
from fleet.scene import parse_scene_id
from renderer import formats, made
from renderer.agent_client import AgentClient
from renderer.camera import look_at, matrices
from renderer.catalogue import Catalogue, CatalogueEntry, save_catalogue
from renderer.credentials import BearerTokens
from renderer.fetch_terms import Terms
from renderer.formats import ply
from renderer.peers import Peers
from renderer.pod import RendererPod
from renderer.pod_settings import PodSettings
from renderer.scene_source import digest_of, open_bucket
from renderer.scene_store import SceneStore
from renderer.splats import Splats, make_splats
from renderer.stored_scene import StoredScene

_CAPACITY_BYTES = 20 * 10**9
_FETCH_TAKES_S = 3.0
_MADE_AT_ONCE = 250_000
_STUB_HOLDS_MB = 60.0
_TOKEN = "token-of-the-benchmark-0123456789"


@dataclass(frozen=True, slots=True)
class Row:
    """Figures of one scene size; MB are 10^6 bytes. None was not asked for."""

    scene_mb: float
    gaussians: int
    s3_one_range_mb_per_s: float | None = None
    s3_eight_ranges_mb_per_s: float | None = None
    s3_curl_mb_per_s: float | None = None
    s3_curl_synced_and_hashed_mb_per_s: float | None = None
    peer_mb_per_s: float | None = None
    peer_curl_mb_per_s: float | None = None
    peer_curl_synced_and_hashed_mb_per_s: float | None = None
    first_frame_from_nothing_s: float | None = None
    first_frame_from_disk_s: float | None = None
    first_frame_from_packed_s: float | None = None
    first_frame_from_page_cache_s: float | None = None
    first_visitor_without_warm_up_s: float | None = None
    first_visitor_with_warm_up_s: float | None = None


@dataclass(frozen=True, slots=True)
class Curl:
    """Seconds of a plain `curl`, and until its bytes were synced and their sha256 known."""

    written_s: float
    synced_and_hashed_s: float


PARTS = ("fetches", "frames-of-source", "frames-of-packed", "visitors")


@dataclass(frozen=True, slots=True)
class Report:
    """All rows; `s3_server` says what stood for the object store."""

    s3_server: str
    machine: Machine
    rounds: int
    rows: list[Row]


def measure(sizes_mb: list[float], rounds: int, parts: Sequence[str] = PARTS) -> Report:
    """Measure `parts` of every size; the object store, the agent and all files are gone when this returns."""
    rows = []
    with tempfile.TemporaryDirectory(prefix="splatfleet-bench-") as name, ExitStack() as stack:
        folder = Path(name)
        server = stack.enter_context(s3_server(folder / "s3" / "buckets", free_port()))
        stack.enter_context(_environment(server.environment()))
        # The stub takes an object in one request only.
        for size_mb in [size for size in sizes_mb if server.is_real or size <= _STUB_HOLDS_MB]:
            rows.append(_Size(folder / f"{size_mb:g}", server, size_mb, rounds).row(parts))
        said = (
            "versitygw"
            if server.is_real
            else "a stub of the S3 wire, scenes up to 60 MB only (versitygw is not installed)"
        )
    return Report(said, describe(), rounds, rows)


@contextmanager
def _environment(added: dict[str, str]) -> Iterator[None]:
    before = dict(os.environ)
    os.environ.update(added)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


class _Size:
    """One scene, published, and all that is measured of it."""

    def __init__(self, folder: Path, server: S3Server, size_mb: float, rounds: int) -> None:
        folder.mkdir()
        self._folder, self._server, self._rounds = folder, server, rounds
        self._catalogue = folder / "catalogue.json"
        path = folder / "scene.ply"
        ply.write(path, made.make("terrain", 1000))
        count = round(size_mb * 1e6 / (path.stat().st_size / 1000))
        ply.write(path, _terrain(count))
        self._entry = self._upload(path)
        path.unlink()

    def _upload(self, path: Path) -> CatalogueEntry:
        """What `scene publish` does, but for reading the whole scene, which takes half a minute a GB."""
        import obstore

        uri = f"s3://{self._server.bucket}/bench/scene.ply"
        obstore.put(open_bucket(uri), "bench/scene.ply", path, use_multipart=path.stat().st_size > 64 << 20)
        header = formats.read_header(path)
        entry = CatalogueEntry(
            parse_scene_id("scene"),
            uri,
            digest=digest_of(path),
            source_bytes=path.stat().st_size,
            resident_bytes=header.resident_bytes,
            gaussians=header.gaussians,
        )
        save_catalogue(Catalogue([entry]), self._catalogue)
        return entry

    def row(self, parts: Sequence[str]) -> Row:
        size_mb = (self._entry.source_bytes or 0) / 1e6
        found: dict[str, Any] = self._fetches(size_mb) if "fetches" in parts else {}
        lays = {"frames-of-source": ("nothing", "disk"), "frames-of-packed": ("packed", "page cache")}
        for lay in (lay for part, of_part in lays.items() if part in parts for lay in of_part):
            seconds = self._median(lambda lay=lay: self._first_frame(lay))  # type: ignore[misc]
            found[f"first_frame_from_{lay.replace(' ', '_')}_s"] = seconds
        if "visitors" in parts:
            found["first_visitor_without_warm_up_s"] = self._first_visitor(warm_up=False)
            found["first_visitor_with_warm_up_s"] = self._first_visitor(warm_up=True)
        return Row(size_mb, self._entry.gaussians or 0, **found)

    def _fetches(self, size_mb: float) -> dict[str, float]:
        one_s, eight_s = (self._median(lambda n=n: self._fetch(n)) for n in (1, 8))  # type: ignore[misc]
        curl = self._curls(self._curl_s3)
        peer_s, peer_curl = self._from_peer()
        return {
            "s3_one_range_mb_per_s": size_mb / one_s,
            "s3_eight_ranges_mb_per_s": size_mb / eight_s,
            "s3_curl_mb_per_s": size_mb / curl.written_s,
            "s3_curl_synced_and_hashed_mb_per_s": size_mb / curl.synced_and_hashed_s,
            "peer_mb_per_s": size_mb / peer_s,
            "peer_curl_mb_per_s": size_mb / peer_curl.written_s,
            "peer_curl_synced_and_hashed_mb_per_s": size_mb / peer_curl.synced_and_hashed_s,
        }

    def _curls(self, curl: Callable[[], Curl]) -> Curl:
        """The median of each."""
        found = [curl() for _ in range(self._rounds)]
        return Curl(
            statistics.median(one.written_s for one in found),
            statistics.median(one.synced_and_hashed_s for one in found),
        )

    def _median(self, measured: Callable[[], float]) -> float:
        return statistics.median(measured() for _ in range(self._rounds))

    def _store(self, peers: Peers | None = None) -> SceneStore:
        return SceneStore(self._folder / "node", _CAPACITY_BYTES, peers=peers)

    def _fetch(self, ranges: int) -> float:
        """Seconds to have the scene on disk, synced and verified."""
        store = self._store()
        store.evict(self._entry.id)
        began_s = time.monotonic()
        store.ensure(self._entry, pack=False, terms=Terms(ranges=ranges))
        return time.monotonic() - began_s

    def _curl_s3(self) -> Curl:
        import obstore

        key = self._entry.uri.partition(f"{self._server.bucket}/")[2]
        url = obstore.sign(open_bucket(self._entry.uri), "GET", key, timedelta(minutes=10))
        return self._curl(url)

    def _curl(self, url: str, config: str = "") -> Curl:
        """A plain curl to a file on the same disk."""
        target = self._folder / "curl"
        command = ["curl", "--silent", "--fail", "--config", "-", "--output", str(target)]
        began_s = time.monotonic()
        # By stdin, so that no signature and no token is an argument.
        subprocess.run(command, input=f'url = "{url}"\n{config}', text=True, check=True)
        seconds = time.monotonic() - began_s
        if target.stat().st_size != self._entry.source_bytes:
            raise RuntimeError(f"curl brought {target.stat().st_size} bytes, expected {self._entry.source_bytes}")
        with target.open("rb+") as file:
            os.fsync(file.fileno())
        if digest_of(target) != self._entry.digest:
            raise RuntimeError("curl brought other bytes")
        ended_s = time.monotonic()
        target.unlink()
        return Curl(seconds, ended_s - began_s)

    def _from_peer(self) -> tuple[float, Curl]:
        """Seconds from another node's agent: through the store, and by curl."""
        with _agent(self._folder / "peer", self._catalogue) as (url, tokens):
            self._warm(url, tokens)
            seconds = []
            for _ in range(self._rounds):
                came: list[int] = []
                store = self._store(Peers([url], tokens, came.append))
                store.evict(self._entry.id)
                began_s = time.monotonic()
                store.ensure(self._entry, pack=False)
                seconds.append(time.monotonic() - began_s)
                if sum(came) != self._entry.source_bytes:
                    raise RuntimeError("the scene did not come from the peer")
            address = f"{url}/v1/objects/{self._entry.digest}"
            header = f'header = "Authorization: Bearer {_TOKEN}"\n'
            return statistics.median(seconds), self._curls(lambda: self._curl(address, header))

    def _first_frame(self, lay: str) -> float:
        """Seconds of the first frame of a pod that is up, its scene lying where `lay` says."""
        store = self._store()
        if lay != "page cache":  # else it lies as the frame before had it
            store.evict(self._entry.id)
        if lay != "nothing":
            stored = store.ensure(self._entry, pack=lay != "disk")
            if lay == "packed" and not stored.record.packed_bytes:
                raise RuntimeError("the packed layout was not made")
            _page_cache(stored, keep=lay == "page cache")
        return self._visit(self._pod(store.layout.root))

    def _pod(self, store: Path, fetch_bytes_per_s: float | None = None) -> RendererPod:
        settings = PodSettings(
            self._catalogue,
            store,
            budget_bytes=_CAPACITY_BYTES,
            store_capacity_bytes=_CAPACITY_BYTES,
            fetch_bytes_per_s=fetch_bytes_per_s,
            rasterizer="cpu",
        )
        return RendererPod(settings, Uncounted())

    def _visit(self, pod: RendererPod, **asked: str) -> float:
        """Seconds of one answer."""
        camera = look_at(made.EYE, made.TARGET, made.UP, 50, 256, 256)
        began_s = time.monotonic()
        pod.answer({"scene": self._entry.id, "width": 256, "height": 256, "format": "jpeg", **asked}, *matrices(camera))
        return time.monotonic() - began_s

    def _first_visitor(self, warm_up: bool) -> float:
        """Seconds of the first frame on a node that was empty, with and without the minute's notice."""
        folder = self._folder / f"visited-{warm_up}"
        fetch_bytes_per_s = (self._entry.source_bytes or 0) / _FETCH_TAKES_S
        flags = ["--fetch-mb-per-s", str(fetch_bytes_per_s / 1e6)]
        with _agent(folder, self._catalogue, flags) as (url, tokens):
            pod = self._pod(folder / "store", fetch_bytes_per_s)
            if warm_up:
                self._warm(url, tokens)
                self._visit(pod, action="warm")
                while (state := pod.cache.state(self._entry.id))[0] != "resident":
                    if state[0] == "failed":
                        raise RuntimeError(f"the pod could not be warmed: {state[1]}")
                    time.sleep(0.05)
            return self._visit(pod)

    def _warm(self, url: str, tokens: BearerTokens) -> None:
        agent = AgentClient(url, tokens)
        agent.ask(self._entry.id, 60.0)
        while not any(scene["id"] == self._entry.id for scene in agent.listing()["scenes"]):
            time.sleep(0.1)
        agent.close()


def _terrain(count: int) -> Splats:
    """A made scene; one that is too large for the maker in reasonable time is one piece many times, side by side."""
    piece = made.make("terrain", min(count, _MADE_AT_ONCE), 0)
    pieces = -(-count // piece.count)
    if pieces == 1:
        return piece
    names = ("quaternions", "scales", "opacities", "sh")
    means = np.concatenate([piece.means + np.array([3.0 * number, 0, 0], np.float32) for number in range(pieces)])
    return make_splats(means, *(np.concatenate([getattr(piece, name)] * pieces) for name in names))


def _page_cache(stored: StoredScene, keep: bool) -> None:
    """Drop a scene's files from the page cache, or read them into it."""
    for path in (stored.source, stored.packed):
        if path.is_file():
            with path.open("rb") as file:
                if keep:
                    while file.read(1 << 24):
                        pass
                else:
                    os.fsync(file.fileno())
                    os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


@contextmanager
def _agent(folder: Path, catalogue: Path, flags: Sequence[str] = ()) -> Iterator[tuple[str, BearerTokens]]:
    """Another node's agent as a process."""
    folder.mkdir()
    token = folder / "token"
    token.write_text(_TOKEN + "\n")
    command = [
        *(sys.executable, "-m", "splatfleet", "scene-agent", "--store", str(folder / "store")),
        *("--catalogue", str(catalogue), "--token-file", str(token), "--listen", "127.0.0.1:0"),
        *flags,
    ]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield process.stdout.readline().split()[-1], BearerTokens(token)
    finally:
        process.terminate()
        process.communicate()


def as_text(report: Report) -> str:
    """A table, one column a size."""
    lines = [f"object store: {report.s3_server}; median of {report.rounds}", ""]
    names = [name for name in Row.__dataclass_fields__ if name != "scene_mb"]
    lines.append(f"{'':<40}" + "".join(f"{row.scene_mb:>12,.0f} MB" for row in report.rows))
    for name in names:
        figures = [getattr(row, name) for row in report.rows]
        values = "".join(f"{'-' if figure is None else f'{figure:,.2f}':>15}" for figure in figures)
        lines.append(f"{name.replace('_mb_per_s', ', MB/s').replace('_s', ', s').replace('_', ' '):<40}{values}")
    return "\n".join(lines)


def as_json(report: Report) -> dict[str, object]:
    return asdict(report)
