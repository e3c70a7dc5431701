"""The node's scene store: scenes on disk, fed from object stores, shared by all pods of the node.

Layout, locks and records are those of fleet.scene.StoreLayout. Writing is a folder under `fetching/` that is renamed
into place whole, so a kill at any moment leaves a scene visible or not at all, and the next `ensure` resumes it.
A pod holds an object only while it reads it (packed.read copies), so a full disk can always turn over.

Until a digest is known (a catalogue without digests), the download's lock, heartbeat and folder are named by the
sha256 of the address instead. An object may grow by its packed layout where there is room; that never evicts.
"""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from fleet.scene import SceneId, SceneRecord, StoreLayout, parse_scene_id
from renderer import formats, packed
from renderer.catalogue import CatalogueEntry
from renderer.fetch_terms import Terms
from renderer.scene_fetch import Fetch, FetchedFrom, PeerNodes, StoreRates, fetch_key
from renderer.scene_roots import ANYWHERE, OutsideRoots, SceneRoots
from renderer.scene_source import DISK_FULL, SourceError
from renderer.splats import SceneFileError, Splats
from renderer.store_files import Pace, locked, tree_bytes, write_json
from renderer.store_space import StoreFull, StoreSpace, read_record
from renderer.stored_scene import DamagedObject, Quarantine, Stage, StoredScene

_PACKED_OVERHEAD_BYTES = 4096
_TOUCH_AFTER_S = 1.0
_NO_TERMS = Terms()


class NotStored(Exception):
    """A scene that does not lie whole on this node's disk."""


class FetchFailed(Exception):
    """A scene that could not be brought to this node's disk; one line that names it and why."""


class SceneStore:
    """Scenes on the disk of a node, at most `capacity_bytes`; every method may be called from any thread or process."""

    def __init__(
        self,
        root: Path,
        capacity_bytes: int,
        fetch_bytes_per_s_limit: float | None = None,
        on_fetched: Callable[[int], None] = lambda _count: None,
        room_wait_s: float = 10.0,
        peers: PeerNodes | None = None,
        roots: SceneRoots = ANYWHERE,
        on_quarantined: Callable[[], None] = lambda: None,
    ) -> None:
        """`room_wait_s` is how long a fetch waits while all that could make room for it is being read.

        `peers` are asked before the object store; the bandwidth limit and the `roots` of scenes are not theirs.
        """
        if capacity_bytes <= 0:
            raise ValueError(f"capacity_bytes is {capacity_bytes}, expected more than 0")
        if fetch_bytes_per_s_limit is not None and not fetch_bytes_per_s_limit > 0:
            raise ValueError(f"fetch_bytes_per_s_limit is {fetch_bytes_per_s_limit}, expected more than 0 or None")
        self.layout = StoreLayout(root)
        self.capacity_bytes = capacity_bytes
        for folder in (self.layout.objects, self.layout.scenes, self.layout.fetching):
            folder.mkdir(parents=True, exist_ok=True)
        self._verified: set[tuple[int, ...]] = set()  # packed layouts whose sha256 this process has seen to be right
        self._space = StoreSpace(self.layout, capacity_bytes, room_wait_s)
        self._quarantine = Quarantine(self.layout, self._space, on_quarantined)
        pace = Pace(root / ".pace", fetch_bytes_per_s_limit) if fetch_bytes_per_s_limit else None
        self._rates = StoreRates(self.layout, capacity_bytes)
        self._rates.add()
        self._fetch = Fetch(self.layout, self._space, self._rates, FetchedFrom(roots, peers, pace, on_fetched))

    def ensure(self, entry: CatalogueEntry, pack: bool = True, terms: Terms = _NO_TERMS) -> StoredScene:
        """Have a scene on disk, fetched if need be, and (`pack`) its packed layout made; blocks until it is there.

        Processes and threads that ask for one scene do one download. Prefetching calls this and nothing else.
        An object that turns out damaged is put aside and fetched again, once. Raises FetchFailed, StoreFull,
        SceneFileError (which names the scene's address) or, where the terms say so, fetch_terms.Stopped; nothing is
        visible then.
        """
        try:
            return self._ensure(entry, pack, terms)
        except DamagedObject as damaged:
            self._quarantine.put(self._stored(damaged.record), str(damaged))
        try:
            return self._ensure(entry, pack, terms)
        except DamagedObject as damaged:
            raise FetchFailed(f"{damaged}, again") from damaged

    def _ensure(self, entry: CatalogueEntry, pack: bool, terms: Terms) -> StoredScene:
        with contextlib.suppress(NotStored), self._open(entry.id, entry) as stored:
            if stored.record.packed_bytes or not pack:
                return stored
        key = fetch_key(entry)
        try:
            with locked(self.layout.lock_file(key), exclusive=True):
                record = self._current(entry.id, entry)
                stored = self._stored(record) if record is not None else self._fetch.run(entry, key, terms)
            return self._with_packed(stored) if pack else stored
        except (SourceError, OutsideRoots) as error:
            raise FetchFailed(f"scene {entry.id}: {error}") from error
        except SceneFileError as error:
            raise SceneFileError(entry.uri, error.field, error.value, error.limit) from error
        except OSError as error:
            if error.errno not in DISK_FULL:
                raise FetchFailed(f"scene {entry.id}: {error}") from error
            self._space.discard(key)
            raise StoreFull(
                f"scene {entry.id}: the disk under {self.layout.root} is full ({error.strerror})"
            ) from error

    def add_packed(self, stored: StoredScene, splats: Splats) -> None:
        """Write the packed layout of a scene beside its source, once per node and only into free room."""
        self._pack(stored, lambda _held: splats)

    def _pack(self, stored: StoredScene, splats_of: Callable[[StoredScene], Splats]) -> None:
        digest = stored.record.digest
        try:
            with locked(self._packing_lock(digest), exclusive=True), self._open(stored.id, None) as held:
                if held.record.packed_bytes or held.record.digest != digest or formats.detect(held.source) == "packed":
                    return
                if not self._space.reserve_free(digest, held.record.resident_bytes + _PACKED_OVERHEAD_BYTES):
                    return
                try:
                    _sweep(held)
                    packed.write(splats_of(held), held.packed)
                    written = dataclasses.replace(held.record, packed_bytes=tree_bytes(held.packed))
                    self._write_record(written, durable=True)
                finally:
                    self._space.release(digest)
        except NotStored:
            return  # evicted by a neighbour in between; whoever opens it will ask again
        except OSError as error:
            if error.errno not in DISK_FULL:
                raise

    def _packing_lock(self, digest: str) -> Path:
        return self.layout.objects / f"{digest}.packing.lock"

    @contextlib.contextmanager
    def open(self, scene: SceneId) -> Iterator[StoredScene]:
        """Hold a scene so that it cannot be evicted while the block reads it; raises NotStored."""
        with self._open(scene, None) as stored:
            yield stored

    @contextlib.contextmanager
    def opened(self, entry: CatalogueEntry, pack: bool = True) -> Iterator[StoredScene]:
        """`ensure` and `open` in one, however often the scene is evicted in between."""
        while True:
            stored = self.ensure(entry, pack)
            with contextlib.ExitStack() as stack:
                try:
                    held = stack.enter_context(self._open(entry.id, entry))
                except NotStored:
                    continue
                yield dataclasses.replace(held, stage=stored.stage, fetched_bytes=stored.fetched_bytes)
                return

    def read(self, entry: CatalogueEntry, admit: Callable[[StoredScene], None]) -> tuple[StoredScene, Splats]:
        """Have a scene on disk and read it, once `admit` has seen it; what is damaged is put aside and fetched again.

        Raises what `ensure` and `admit` raise.
        """
        for _ in range(2):
            with self.opened(entry, pack=False) as stored:
                admit(stored)
                began_s = time.monotonic()
                try:
                    version = stored.packed_version()
                    splats = stored.read_packed(verify=version not in self._verified)
                    if splats is not None:
                        self._verified.add(version)
                    is_packed_damaged = splats is None and stored.record.packed_bytes > 0
                    if splats is None:
                        splats = stored.read_source()
                except DamagedObject as damaged:
                    why = str(damaged)
                else:
                    self._measured_read(stored, time.monotonic() - began_s)
                    break
            self._quarantine.put(stored, why)
        else:
            raise FetchFailed(f"{why}, again")
        if is_packed_damaged:
            self._quarantine.drop_packed(stored)
            stored = dataclasses.replace(stored, record=dataclasses.replace(stored.record, packed_bytes=0))
        return stored, splats

    def touch(self, entry: CatalogueEntry) -> bool:
        """Whether a scene lies whole on this disk; asking is a use, so that it is not the next to go."""
        record = self._current(entry.id, entry)
        if record is not None:
            self._touch(record)
        return record is not None

    def check(self, digest: str) -> bool:
        """Whether an object that lies here is what its digest says; one that is not is put aside."""
        for record in self.records():
            if record.digest == digest:
                try:
                    with self._open(SceneId(record.id), None) as stored:
                        stored.verify()
                except NotStored:
                    return False
                except DamagedObject as damaged:
                    self._quarantine.put(stored, str(damaged))
                    return False
                return True
        return False

    def used_bytes(self) -> int:
        """Bytes of objects, and of downloads what they hold or were promised."""
        return self._space.used_bytes()

    def evict(self, scene: SceneId) -> bool:
        """Forget a scene; False where it does not lie here or a pod reads it right now."""
        record = self._current(parse_scene_id(scene), None)
        return record is not None and self._space.evict(record)

    def records(self) -> tuple[SceneRecord, ...]:
        """What lies whole on this disk, by scene id."""
        return self._space.records()

    def _measured_read(self, stored: StoredScene, seconds: float) -> None:
        """Learn how fast this disk is read."""
        read_bytes = stored.record.packed_bytes or stored.record.source_bytes
        if seconds > 0:
            self._rates.add(read_bytes_per_s=read_bytes / seconds)

    @contextlib.contextmanager
    def _open(self, scene: SceneId, entry: CatalogueEntry | None) -> Iterator[StoredScene]:
        record = self._current(scene, entry)
        if record is None:
            raise NotStored(f"scene {scene} does not lie in {self.layout.root}")
        with locked(self.layout.lock_file(record.digest), exclusive=False):
            record = self._current(scene, entry)  # it may have gone while we waited
            if record is None:
                raise NotStored(f"scene {scene} does not lie in {self.layout.root}")
            yield self._stored(self._touch(record))

    def _current(self, scene: SceneId, entry: CatalogueEntry | None) -> SceneRecord | None:
        """The record of a scene whose object is there and is what the catalogue means by that id."""
        record = read_record(self.layout.scene_file(scene))
        if record is None or not self.layout.object_dir(record.digest).is_dir():
            return None
        if entry is not None and entry.digest not in (None, record.digest):
            return None
        # The file is the truth: a neighbour's touch may write a record that it read before the scene was packed.
        return dataclasses.replace(record, packed_bytes=tree_bytes(self.layout.object_dir(record.digest) / "packed"))

    def _touch(self, record: SceneRecord) -> SceneRecord:
        now_s = time.time()
        if now_s - record.last_used_s < _TOUCH_AFTER_S:
            return record
        touched = dataclasses.replace(record, last_used_s=now_s)
        with contextlib.suppress(OSError):  # on a full disk a scene is still readable
            self._write_record(touched)
        return touched

    def _write_record(self, record: SceneRecord, durable: bool = False) -> None:
        write_json(self.layout.scene_file(SceneId(record.id)), dataclasses.asdict(record), durable)

    def _stored(self, record: SceneRecord) -> StoredScene:
        return StoredScene(record, self.layout.object_dir(record.digest), _stage(record))

    def _with_packed(self, stored: StoredScene) -> StoredScene:
        try:
            self._pack(stored, lambda held: dataclasses.replace(held, stage=stored.stage).read_source())
        except SceneFileError:
            self._space.evict(stored.record)
            raise
        record = self._current(stored.id, None)
        return dataclasses.replace(stored, record=record) if record is not None else stored


def _sweep(held: StoredScene) -> None:
    """Remove what a kill in the middle of packing left; the packing lock is held."""
    for left in held.folder.iterdir():
        if left not in (held.source, held.packed):
            left.unlink()


def _stage(record: SceneRecord) -> Stage:
    return "packed" if record.packed_bytes else "disk"
