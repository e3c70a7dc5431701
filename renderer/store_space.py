"""Room in a node's scene store: what is used, what downloads in flight have reserved, and whom to evict.

`fetching/<key>.part/` is a download, `fetching/<key>.reserve` the bytes that it was promised. All changes of the sum
happen under one flock, so that two processes never promise the same room twice.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from fleet.scene import SceneId, SceneRecord, StoreLayout
from renderer.store_files import locked, locked_if_free, read_json, tree_bytes

_POLL_S = 0.1
_TEMPORARY_LIVES_S = 60.0


class StoreFull(Exception):
    """No room for a scene on this node's disk; says how much is needed, used and held."""


class StoreHeld(StoreFull):
    """There would be room, but for scenes that are being read or fetched now: worth another try."""


def read_record(path: Path) -> SceneRecord | None:
    """A SceneRecord from its file; None where there is none or it is damaged."""
    found = read_json(path)
    try:
        return SceneRecord(**found) if found is not None else None
    except TypeError:
        return None


class StoreSpace:
    """The bytes of one store."""

    def __init__(self, layout: StoreLayout, capacity_bytes: int, wait_s: float) -> None:
        self._wait_s = wait_s
        self._layout = layout
        self._capacity_bytes = capacity_bytes
        self._lock_file = layout.root / ".space.lock"
        with locked(self._lock_file, exclusive=True):
            for left in layout.fetching.glob("*.trash"):  # an eviction that was cut off
                shutil.rmtree(left, ignore_errors=True)
            for key in self._in_flight():
                with locked_if_free(layout.lock_file(key)) as nobody_works_on_it:
                    if nobody_works_on_it and not self.part_folder(key).exists():
                        self.release(key)
        for folder in (layout.root, layout.scenes, layout.fetching):
            for left in folder.glob(".*.tmp"):  # of a process that was killed between write and rename
                with contextlib.suppress(OSError):
                    if time.time() - left.stat().st_mtime > _TEMPORARY_LIVES_S:
                        left.unlink()

    def part_folder(self, key: str) -> Path:
        return self._layout.fetching / f"{key}.part"

    def _reserve_file(self, key: str) -> Path:
        return self._layout.fetching / f"{key}.reserve"

    def records(self) -> tuple[SceneRecord, ...]:
        found = (read_record(path) for path in sorted(self._layout.scenes.glob("*.json")) if path.name[0] != ".")
        return tuple(record for record in found if record and self._layout.object_dir(record.digest).is_dir())

    def used_bytes(self, without: str = "") -> int:
        """Bytes of all objects and of downloads, whichever is more of what they hold and what they were promised."""
        used = sum(tree_bytes(folder) for folder in self._layout.objects.iterdir() if folder.is_dir())
        used += tree_bytes(self._layout.quarantine)
        return used + sum(self._in_flight_bytes(key) for key in self._in_flight() - {without})

    def _in_flight(self) -> set[str]:
        """Keys of downloads and promises, dead ones included."""
        return {path.stem for path in self._layout.fetching.iterdir() if path.suffix in (".part", ".reserve")}

    def _in_flight_bytes(self, key: str) -> int:
        try:
            promised = int(self._reserve_file(key).read_text())
        except (OSError, ValueError):
            promised = 0
        return max(promised, tree_bytes(self.part_folder(key)))

    def reserve(self, scene: str, key: str, need_bytes: int) -> None:
        """Promise room to a download, evicting what was used least recently; raises StoreFull.

        Scenes are held only while somebody reads or fetches them, so a store that is full of held ones is waited for.
        """
        if need_bytes > self._capacity_bytes:
            raise StoreFull(
                f"scene {scene} has {need_bytes} bytes, "
                f"the store {self._layout.root} holds {self._capacity_bytes} at most"
            )
        end_s = time.monotonic() + self._wait_s
        while True:
            used_bytes = self._try_reserve(key, need_bytes)
            if used_bytes is None:
                return
            if time.monotonic() >= end_s:
                raise StoreHeld(
                    f"scene {scene} needs {need_bytes} bytes; of {self._capacity_bytes} in {self._layout.root} "
                    f"{used_bytes} are held by scenes being read or fetched"
                )
            time.sleep(_POLL_S)

    def _try_reserve(self, key: str, need_bytes: int) -> int | None:
        """None once the room is promised; else the bytes that nobody may remove now."""
        with locked(self._lock_file, exclusive=True):
            for remove in self._removable(key):
                if self.used_bytes(without=key) + need_bytes <= self._capacity_bytes:
                    break
                remove()
            used_bytes = self.used_bytes(without=key)
            if used_bytes + need_bytes > self._capacity_bytes:
                return used_bytes
            self._reserve_file(key).write_text(str(need_bytes))
            return None

    def reserve_free(self, key: str, need_bytes: int) -> bool:
        """Promise room that is free now, evicting nothing; False where there is too little."""
        with locked(self._lock_file, exclusive=True):
            if self.used_bytes(without=key) + need_bytes > self._capacity_bytes:
                return False
            self._reserve_file(key).write_text(str(need_bytes))
            return True

    def release(self, key: str) -> None:
        """Take a promise back."""
        self._reserve_file(key).unlink(missing_ok=True)

    def discard(self, key: str) -> None:
        """Remove a download, promise and bytes."""
        shutil.rmtree(self.part_folder(key), ignore_errors=True)
        self._layout.fetching_file(key).unlink(missing_ok=True)
        self.release(key)

    def evict(self, record: SceneRecord) -> bool:
        """Forget one scene id, and its object with the last id of it; False where a pod reads it now."""
        with locked(self._lock_file, exclusive=True), locked_if_free(self._layout.lock_file(record.digest)) as held:
            if not held:
                return False
            ids = [each.id for each in self.records() if each.digest == record.digest]
            if ids == [record.id]:
                self.remove_object(record.digest)
            else:
                self._layout.scene_file(SceneId(record.id)).unlink(missing_ok=True)
            return True

    def remove_object(self, digest: str) -> None:
        """Records first, then the object in one rename, then its bytes; its lock is held."""
        for record in self.records():
            if record.digest == digest:
                self._layout.scene_file(SceneId(record.id)).unlink(missing_ok=True)
        trash = self._layout.fetching / f"{digest}.{os.getpid()}.trash"
        with contextlib.suppress(FileNotFoundError):
            self._layout.object_dir(digest).rename(trash)
        shutil.rmtree(trash, ignore_errors=True)

    def put_aside(self, digest: str) -> Path:
        """Move a damaged object out of sight, where it takes the place of the last one; its lock is held."""
        with locked(self._lock_file, exclusive=True):
            self._layout.quarantine.mkdir(exist_ok=True)
            for earlier in self._layout.quarantine.iterdir():
                shutil.rmtree(earlier, ignore_errors=True)
            kept = self._layout.quarantine / f"{digest}-{time.time_ns()}"
            self._layout.object_dir(digest).rename(kept)  # first: without its object no record is believed
            for record in (read_record(path) for path in self._layout.scenes.glob("[!.]*.json")):
                if record is not None and record.digest == digest:
                    self._layout.scene_file(SceneId(record.id)).unlink(missing_ok=True)
            return kept

    def _removable(self, keep: str) -> Iterator[Callable[[], None]]:
        """What is damaged, dead downloads and promises, then objects by last use, if nobody holds their lock."""
        if self._layout.quarantine.is_dir():
            yield lambda: shutil.rmtree(self._layout.quarantine, ignore_errors=True)
        for key in self._in_flight() - {keep}:
            yield _Removal(self, self._layout.lock_file(key), key, is_part=True)
        last_used_s = {folder.name: 0.0 for folder in self._layout.objects.iterdir() if folder.is_dir()}
        for record in self.records():
            last_used_s[record.digest] = max(last_used_s.get(record.digest, 0.0), record.last_used_s)
        for digest in sorted(last_used_s, key=lambda digest: last_used_s[digest]):
            if digest != keep:
                yield _Removal(self, self._layout.lock_file(digest), digest, is_part=False)


@dataclasses.dataclass(frozen=True, slots=True)
class _Removal:
    space: StoreSpace
    lock_file: Path
    key: str
    is_part: bool

    def __call__(self) -> None:
        with locked_if_free(self.lock_file) as held:
            if held and self.is_part:
                self.space.discard(self.key)
            elif held:
                self.space.remove_object(self.key)
