"""One scene brought into the store: from a peer, else from where the catalogue says, checked, and made visible."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from fleet.scene import SceneId, SceneRecord, StoreLayout, StoreRecord
from renderer import formats
from renderer.catalogue import CatalogueEntry
from renderer.download import Download, Source
from renderer.fetch_progress import Heartbeat
from renderer.fetch_terms import Terms
from renderer.peers import PEER_RANGES
from renderer.scene_roots import SceneRoots
from renderer.scene_source import SourceError
from renderer.sources import open_source
from renderer.splats import SceneFileError
from renderer.store_files import Pace, locked, read_json, sync_folder, tree_bytes, write_json
from renderer.store_space import StoreFull, StoreSpace
from renderer.stored_scene import StoredScene


class _OtherBytes(SourceError):
    """Bytes with another digest than the catalogue's; `kept_bytes` of them had come in an earlier try."""

    def __init__(self, message: str, kept_bytes: int) -> None:
        super().__init__(message)
        self.kept_bytes = kept_bytes


class PeerNodes(Protocol):
    """Other nodes that may hold an object."""

    def find(self, digest: str) -> Sequence[Source]:
        """Peers that say that they have it, nearest first."""
        ...

    def failed(self, source: Source, reason: str) -> None:
        """A peer did not bring what it said; it is not asked for a while."""
        ...

    def fetched(self, count_bytes: int) -> None:
        """So many bytes came from peers."""
        ...


class StoreRates:
    """How fast this node fetches and reads, kept in store.json for the exporter and so for placement."""

    def __init__(self, layout: StoreLayout, capacity_bytes: int) -> None:
        self._layout, self._capacity_bytes = layout, capacity_bytes

    def add(self, fetch_bytes_per_s: float = 0.0, read_bytes_per_s: float = 0.0, peer_bytes_per_s: float = 0.0) -> None:
        """Fold a measurement into store.json (half its weight to the newest)."""
        known = read_json(self._layout.store_file) or {}
        rates = {}
        measured = {
            "fetch_bytes_per_s": fetch_bytes_per_s,
            "read_bytes_per_s": read_bytes_per_s,
            "peer_bytes_per_s": peer_bytes_per_s,
        }
        for name, new in measured.items():
            old = float(known.get(name, 0.0))
            rates[name] = (old + new) / 2 if old and new else new or old
        record = dataclasses.asdict(StoreRecord(self._capacity_bytes, **rates))
        if record != known:
            write_json(self._layout.store_file, record)


@dataclasses.dataclass(frozen=True, slots=True)
class FetchedFrom:
    """Where scenes may come from, how fast, and who counts their bytes."""

    roots: SceneRoots
    peers: PeerNodes | None
    pace: Pace | None
    on_fetched: Callable[[int], None]


class Fetch:
    """Brings scenes into one store; the caller holds the exclusive lock of the scene's key."""

    def __init__(self, layout: StoreLayout, space: StoreSpace, rates: StoreRates, sources: FetchedFrom) -> None:
        self._layout, self._space, self._rates = layout, space, rates
        self._roots, self._peers, self._pace = sources.roots, sources.peers, sources.pace
        self._on_fetched = sources.on_fetched

    def run(self, entry: CatalogueEntry, key: str, terms: Terms) -> StoredScene:
        """Download under the exclusive lock of `key`, check, publish."""
        if entry.digest and self._layout.object_dir(entry.digest).is_dir():  # the same bytes under another id
            return self._stored(entry)
        self._roots.check(entry.uri)
        # A peer is believed only where the catalogue knows better: it could claim any size and send any bytes.
        if self._peers is not None and entry.digest and entry.source_bytes:
            for peer in self._peers.find(entry.digest):
                try:
                    return self.bring(
                        entry, key, peer, dataclasses.replace(terms, retries=0, ranges=min(PEER_RANGES, terms.ranges))
                    )
                except SourceError as error:
                    self._peers.failed(peer, str(error))
        source = open_source(entry.uri, terms, self._roots)
        try:
            return self.bring(entry, key, source, terms)
        except _OtherBytes as error:
            if not error.kept_bytes:
                raise
        return self.bring(entry, key, source, terms)  # what an earlier try or a peer had left was bad

    def bring(self, entry: CatalogueEntry, key: str, source: Source, terms: Terms) -> StoredScene:
        """Fetch from one source, check, publish."""
        if entry.source_bytes is not None and source.total_bytes != entry.source_bytes:
            raise SourceError(f"{source.uri}: has {source.total_bytes} bytes, the catalogue says {entry.source_bytes}")
        if terms.may_evict:
            self._space.reserve(entry.id, key, source.total_bytes)
        elif not self._space.reserve_free(key, source.total_bytes):
            raise StoreFull(f"scene {entry.id} needs {source.total_bytes} bytes, and nothing may be evicted for it")
        part = self._space.part_folder(key)
        is_peer = source.uri != entry.uri
        download = Download(source, part, None if is_peer else self._pace, terms, entry.digest)
        try:
            try:
                with Heartbeat(self._layout.fetching_file(key), entry.id, key, source.total_bytes) as heartbeat:
                    got = download.run(heartbeat.progress)
            finally:
                self._count(download.fetched_bytes, is_peer)
            if got.fetched_bytes and got.seconds > 0:
                rate = got.fetched_bytes / got.seconds
                self._rates.add(**{"peer_bytes_per_s" if is_peer else "fetch_bytes_per_s": rate})
            self._check(entry, source, got.digest, download.kept_bytes)
            with contextlib.ExitStack() as stack:
                if got.digest != key:
                    stack.enter_context(locked(self._layout.lock_file(got.digest), exclusive=True))
                self._move_in(part, got.digest)
                record = self._publish(entry, got.digest)
        finally:
            self._space.release(key)
        return StoredScene(record, self._layout.object_dir(got.digest), "remote", got.fetched_bytes)

    def _count(self, fetched_bytes: int, is_peer: bool) -> None:
        if is_peer and self._peers is not None:
            self._peers.fetched(fetched_bytes)
        elif fetched_bytes:
            self._on_fetched(fetched_bytes)

    def _check(self, entry: CatalogueEntry, source: Source, digest: str, kept_bytes: int) -> None:
        """Refuse what is not what the catalogue promised, or no scene, before it becomes visible."""
        part = self._space.part_folder(fetch_key(entry))
        try:
            if entry.digest and digest != entry.digest:
                raise _OtherBytes(f"{source.uri}: sha256 is {digest}, the catalogue says {entry.digest}", kept_bytes)
            formats.read_header(part / "source")
        except (SourceError, SceneFileError):
            shutil.rmtree(part, ignore_errors=True)
            raise

    def _move_in(self, part: Path, digest: str) -> None:
        target = self._layout.object_dir(digest)
        if target.is_dir():  # the same bytes from another address
            shutil.rmtree(part, ignore_errors=True)
        else:
            part.rename(target)
            sync_folder(self._layout.objects)

    def _publish(self, entry: CatalogueEntry, digest: str) -> SceneRecord:
        """Write the record that makes an object visible under an id; the object's lock is held."""
        folder = self._layout.object_dir(digest)
        header = formats.read_header(folder / "source")
        record = SceneRecord(
            id=entry.id,
            digest=digest,
            source_bytes=tree_bytes(folder / "source"),
            packed_bytes=tree_bytes(folder / "packed"),
            resident_bytes=header.resident_bytes,
            gaussians=header.gaussians,
            last_used_s=time.time(),
        )
        write_json(self._layout.scene_file(SceneId(record.id)), dataclasses.asdict(record), durable=True)
        return record

    def _stored(self, entry: CatalogueEntry) -> StoredScene:
        """An object that lies here already, made visible under one more id."""
        assert entry.digest is not None
        record = self._publish(entry, entry.digest)
        return StoredScene(record, self._layout.object_dir(record.digest), "packed" if record.packed_bytes else "disk")


def fetch_key(entry: CatalogueEntry) -> str:
    """What names a download until its digest is known, and after."""
    return entry.digest or hashlib.sha256(entry.uri.encode()).hexdigest()
