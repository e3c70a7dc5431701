"""One scene from its source into a folder: resumed where it was cut off, paced, hashed, with a heartbeat."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from fleet.scene import FetchRecord
from renderer.scene_source import SINGLE_FILE, Part, SceneSource, SourceError, combined_digest, hash_file
from renderer.store_files import Pace, read_json, sync_folder, write_json

_HEARTBEAT_S = 0.5
_CHUNK_BYTES = 1 << 20
_SMALLEST_CHUNK_BYTES = 16 << 10
_ORIGIN_FILE = "origin.json"


@dataclasses.dataclass(frozen=True, slots=True)
class Downloaded:
    """What a download brought: `fetched_bytes` came over the wire now, the rest lay there from an earlier try."""

    digest: str
    fetched_bytes: int
    seconds: float


class Heartbeat:
    """Writes a FetchRecord now and every half second until it is left; then the file is gone."""

    def __init__(self, path: Path, scene: str, digest: str, total_bytes: int) -> None:
        self._path = path
        self._record = FetchRecord(scene, digest, 0, total_bytes, 0.0)
        self._done_bytes = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._beat, name=f"heartbeat-{scene}", daemon=True)

    def progress(self, done_bytes: int) -> None:
        """The next heartbeat tells so many bytes."""
        self._done_bytes = done_bytes

    def _write(self) -> None:
        record = dataclasses.replace(self._record, done_bytes=self._done_bytes, heartbeat_s=time.time())
        write_json(self._path, dataclasses.asdict(record))

    def _beat(self) -> None:
        while not self._stop.wait(_HEARTBEAT_S):
            with contextlib.suppress(OSError):  # a full disk fails the download itself, with its own message
                self._write()

    def __enter__(self) -> Heartbeat:
        self._write()
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        self._thread.join()
        self._path.unlink(missing_ok=True)


def download(source: SceneSource, folder: Path, pace: Pace | None, progress: Callable[[int], None]) -> Downloaded:
    """Bring all files of a source to `folder/source`, on disk for good; raises SourceError and OSError.

    `progress` gets the bytes that lie there. What an earlier try left is used if the source has not changed.
    """
    began_s = time.monotonic()
    _prepare(source, folder)
    target = folder / "source"
    if source.is_folder:
        target.mkdir(exist_ok=True)
    digests: dict[str, str] = {}
    done_bytes = fetched_bytes = 0
    for part in source.parts:
        path = target / part.name if source.is_folder else target
        fetch = _PartFetch(source, part, path, pace)
        for count in fetch.run():
            done_bytes += count
            progress(done_bytes)
        digests[part.name] = fetch.digest.hexdigest()
        fetched_bytes += fetch.fetched_bytes
    if source.is_folder:
        sync_folder(target)
    (folder / _ORIGIN_FILE).unlink()
    digest = combined_digest(digests) if source.is_folder else digests[SINGLE_FILE]
    return Downloaded(digest, fetched_bytes, time.monotonic() - began_s)


def _prepare(source: SceneSource, folder: Path) -> None:
    """Keep the folder of an earlier try of the same files since the last boot, else start with an empty one."""
    origin = {
        "uri": source.uri,
        # After a crash of the machine the tail of a file may be zeros; only the page cache vouches for it.
        "boot": Path("/proc/sys/kernel/random/boot_id").read_text().strip(),
        "parts": [dataclasses.asdict(part) for part in source.parts],
    }
    if read_json(folder / _ORIGIN_FILE) != origin:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        write_json(folder / _ORIGIN_FILE, origin)


class _PartFetch:
    """One file: `run` yields the bytes added to what lies there, negative where it starts over."""

    def __init__(self, source: SceneSource, part: Part, path: Path, pace: Pace | None) -> None:
        self._source, self._part, self._path, self._pace = source, part, path, pace
        self.digest = hashlib.sha256()
        self.fetched_bytes = 0

    def run(self) -> Iterator[int]:
        have_bytes = self._path.stat().st_size if self._path.exists() else 0
        if not 0 < have_bytes <= self._part.size_bytes:
            have_bytes = 0
        if have_bytes:
            hash_file(self._path, self.digest)
            yield have_bytes
        if have_bytes < self._part.size_bytes:
            try:
                yield from self._fetch(have_bytes)
            except SourceError:
                if not have_bytes or self.fetched_bytes:
                    raise
                yield -have_bytes  # the server cannot resume
                self.digest = hashlib.sha256()
                yield from self._fetch(0)
        with self._path.open("ab") as file:  # an empty part has no file yet
            os.fsync(file.fileno())
            have_bytes = file.tell()
        if have_bytes != self._part.size_bytes:
            self._path.unlink(missing_ok=True)
            raise SourceError(
                f"{self._source.uri}: {self._part.name} came with {have_bytes} bytes, "
                f"{self._part.size_bytes} were announced"
            )

    def _fetch(self, start_byte: int) -> Iterator[int]:
        with self._path.open("r+b" if start_byte else "wb") as file:
            file.seek(start_byte)
            file.truncate()
            for chunk in self._source.read(self._part, start_byte, self._chunk_bytes()):
                file.write(chunk)
                self.digest.update(chunk)
                self.fetched_bytes += len(chunk)
                yield len(chunk)
                if self._pace is not None:
                    self._pace.wait(len(chunk))

    def _chunk_bytes(self) -> int:
        """A tenth of a second of the bandwidth, so that progress is smooth and neighbours get their turn."""
        if self._pace is None:
            return _CHUNK_BYTES
        return max(_SMALLEST_CHUNK_BYTES, min(_CHUNK_BYTES, int(self._pace.bytes_per_s / 10)))
