"""A scene that lies whole on the node's disk, and reading it: checked against its digest before it is believed."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from fleet.scene import SceneId, SceneRecord, StoreLayout
from renderer import formats, packed
from renderer.scene_source import digest_of
from renderer.splats import SceneFileError, Splats
from renderer.store_files import locked, write_json
from renderer.store_space import StoreSpace

Stage = Literal["remote", "disk", "packed"]
_WHY_FILE = "why.json"


class DamagedObject(Exception):
    """An object whose bytes are not those of its digest any more."""

    def __init__(self, record: SceneRecord, why: str) -> None:
        self.record = record
        super().__init__(f"scene {record.id}: the object {record.digest} on this disk is damaged: {why}")


@dataclass(frozen=True, slots=True)
class StoredScene:
    """A scene that lay whole on disk when this was made; `stage` says where it came from."""

    record: SceneRecord
    folder: Path
    stage: Stage
    fetched_bytes: int = 0

    @property
    def id(self) -> SceneId:
        return SceneId(self.record.id)

    @property
    def source(self) -> Path:
        return self.folder / "source"

    @property
    def packed(self) -> Path:
        return self.folder / "packed"

    def read(self) -> Splats:
        """Load it, packed where that lies there and is sound. Only while it is open (SceneStore.open).

        Raises SceneFileError and DamagedObject.
        """
        return self.read_packed() or self.read_source()

    def read_packed(self, verify: bool = True) -> Splats | None:
        """The packed layout, which carries its own sha256; None where there is none or it is damaged."""
        if self.record.packed_bytes:
            with contextlib.suppress(SceneFileError):  # a copy of what lies beside it
                return packed.read(self.packed, verify)
        return None

    def packed_version(self) -> tuple[int, ...]:
        """Changes when the packed layout does; empty where there is none."""
        try:
            found = self.packed.stat()
        except OSError:
            return ()
        return (found.st_ino, found.st_mtime_ns, found.st_size)

    def read_source(self) -> Splats:
        """The source, verified first unless it was when it was fetched a moment ago."""
        if self.stage != "remote":
            self.verify()
        return formats.read(self.source)

    def verify(self) -> None:
        """Raises DamagedObject where the source is not what its digest says."""
        try:
            found = digest_of(self.source)
        except (OSError, ValueError) as error:
            raise DamagedObject(self.record, str(error)) from error
        if found != self.record.digest:
            raise DamagedObject(self.record, f"its sha256 is {found}")


class Quarantine:
    """Damaged objects, out of sight of every reader: the last one is kept to be looked at, and goes first for room."""

    def __init__(self, layout: StoreLayout, space: StoreSpace, on_quarantined: Callable[[], None]) -> None:
        self._layout, self._space = layout, space
        self._on_quarantined = on_quarantined

    def put(self, stored: StoredScene, why: str) -> None:
        """Put an object aside, unless a neighbour did or it is sound after all; waits for its readers."""
        digest = stored.record.digest
        with locked(self._layout.lock_file(digest), exclusive=True):
            try:
                if stored.folder.is_dir():
                    stored.verify()
                return
            except DamagedObject:
                kept = self._space.put_aside(digest)
        write_json(kept / _WHY_FILE, {"scene": stored.record.id, "why": why})
        self._on_quarantined()

    def drop_packed(self, stored: StoredScene) -> None:
        """Remove a packed layout that is damaged: its source is there to make it anew."""
        with locked(self._layout.lock_file(stored.record.digest), exclusive=True):
            if stored.read_packed() is None and stored.packed.exists():
                stored.packed.unlink()
                self._on_quarantined()
