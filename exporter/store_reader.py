"""The node's scene store, read from disk at scrape time: what changed is read, what did not is not."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TypeVar

import msgspec

from exporter.files import FileError, Stamp, read_regular, stamp_of
from exporter.inventory import SceneTable, cached_scene
from fleet.digest import CachedScene
from fleet.scene import FetchRecord, SceneRecord, StoreLayout, StoreRecord, parse_digest, parse_scene_id

Record = TypeVar("Record")

_RECORD_BYTES = 64 * 1024
# Records looked at again per scrape although the folder says nothing changed: 2 µs each, so a store of 20,000 scenes
# costs 4 ms, and a record rewritten in place is seen after ten scrapes (in a store of 2,000, at once).
_CHECKED_PER_READ = 2_000
# A change in the same tick of the kernel's clock as our listing leaves the folder's mtime as we saw it.
_CLOCK_TICK_NS = 50_000_000


@dataclass(frozen=True, slots=True)
class StoreReading:
    """The store at one moment. `store` is None while nobody wrote store.json: capacity is not known then."""

    store: StoreRecord | None
    scenes: tuple[CachedScene, ...]
    fetches: tuple[FetchRecord, ...]
    disk_free_bytes: int
    problem: str = ""  # the first record that could not be read, or what else is wrong


class StoreReader:
    """Reads one store again and again; not for two threads at once."""

    def __init__(self, root: Path, clock_ns: Callable[[], int] = time.time_ns) -> None:
        self.layout = StoreLayout(root)
        self._scenes_prefix = f"{self.layout.scenes}{os.sep}"  # joining Paths would cost more than the stat
        self._clock_ns = clock_ns
        self._table = SceneTable()
        self._stamps: dict[str, Stamp] = {}
        self._problems: dict[str, str] = {}
        self._folder: Stamp | None = None
        self._names: list[str] = []
        self._next = 0
        self._scene = msgspec.json.Decoder(SceneRecord)
        self._fetch = msgspec.json.Decoder(FetchRecord)
        self._store = msgspec.json.Decoder(StoreRecord)

    def read(self) -> StoreReading:
        """Read what changed since the last call; raises FileError where there is no store at all."""
        root = self.layout.root
        try:
            disk = os.statvfs(root)
        except OSError as error:
            raise FileError(f"{root}: {error.strerror or error} (no scene store yet?)") from error
        self._read_scenes()
        problems = list(islice(self._problems.values(), 1))
        fetches = self._read_fetches(problems)
        store = None
        try:
            store = self._store.decode(read_regular(self.layout.store_file, _RECORD_BYTES, follow=False)[0])
        except (FileError, msgspec.MsgspecError, ValueError) as error:
            problems.append(f"{self.layout.store_file}: {error}, so the capacity is not known")
        scenes = self._table.scenes()
        return StoreReading(store, scenes, fetches, disk.f_bavail * disk.f_frsize, problems[0] if problems else "")

    def _read_scenes(self) -> None:
        now_ns = self._clock_ns()
        try:
            folder = stamp_of(os.stat(self.layout.scenes))
        except FileNotFoundError:
            folder = None  # a store that never held a scene
        if folder is None or folder != self._folder:
            self._list()
        self._folder = folder if folder is not None and now_ns - folder[1] > _CLOCK_TICK_NS else None
        self._check_some()

    def _list(self) -> None:
        try:
            with os.scandir(self.layout.scenes) as entries:
                listed = {e.name: e.inode() for e in entries if e.name.endswith(".json") and e.name[0] != "."}
        except FileNotFoundError:
            listed = {}
        for name, inode in listed.items():
            stamp = self._stamps.get(name)
            # The listing gives the inode for nothing, and a rename into place changes it (nearly always: a file
            # system may hand an inode out again, which the check by stamp finds).
            if stamp is None or stamp[0] != inode:
                self._read_record(name)
        if len(self._stamps) > len(listed):  # every listed name has a stamp by now, so the rest are gone
            for name in self._stamps.keys() - listed.keys():
                self._forget(name)
        self._names = list(listed)

    def _check_some(self) -> None:
        count = min(_CHECKED_PER_READ, len(self._names))
        for index in range(self._next, self._next + count):
            name = self._names[index % len(self._names)]
            try:
                stamp = stamp_of(os.lstat(self._scenes_prefix + name))
            except OSError:
                self._forget(name)
                continue
            if stamp != self._stamps.get(name):
                self._read_record(name)
        self._next = (self._next + count) % len(self._names) if self._names else 0

    def _forget(self, name: str) -> None:
        self._stamps.pop(name, None)
        self._problems.pop(name, None)
        self._table.drop(name)

    def _read_record(self, name: str) -> None:
        path = self._scenes_prefix + name
        self._problems.pop(name, None)
        try:
            text, self._stamps[name] = read_regular(path, _RECORD_BYTES, follow=False)
            record = self._scene.decode(text)
            if parse_scene_id(record.id) != name.removesuffix(".json"):
                raise ValueError(f"holds the record of {record.id}")
            parse_digest(record.digest)
            if min(record.source_bytes, record.packed_bytes) < 0:
                raise ValueError("negative bytes")
        except (FileError, msgspec.MsgspecError, ValueError) as error:
            self._table.drop(name)
            self._stamps.setdefault(name, (0, 0, 0))
            if os.path.lexists(path):  # else it was evicted between the listing and now
                self._problems[name] = f"{path}: {error}"
            return
        self._table.put(name, cached_scene(record))

    def _read_fetches(self, problems: list[str]) -> tuple[FetchRecord, ...]:
        fetches = []
        try:
            names = sorted(name for name in os.listdir(self.layout.fetching) if name.endswith(".json"))
        except FileNotFoundError:
            return ()
        for name in names:
            path = self.layout.fetching / name
            try:
                record = self._fetch.decode(read_regular(path, _RECORD_BYTES, follow=False)[0])
                parse_scene_id(record.id)
                fetches.append(record)
            except (FileError, msgspec.MsgspecError, ValueError) as error:
                if path.exists():  # else the download ended between the listing and now
                    problems.append(f"{path}: {error}")
        return tuple(fetches)
