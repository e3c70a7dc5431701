"""How far the downloads of a node are: written beside each while it runs, read by whoever wants to know."""

from __future__ import annotations

import contextlib
import dataclasses
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from fleet.scene import FETCH_STALE_AFTER_S, FetchRecord, StoreLayout
from renderer.store_files import read_json, write_json

TELL_EVERY_S = 10.0
_HEARTBEAT_S = 0.5


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


def downloads(layout: StoreLayout) -> dict[str, tuple[int, int]]:
    """Bytes done and in all by scene of every download into the store, whoever it is that fetches."""
    found: dict[str, tuple[int, int]] = {}
    for path in layout.fetching.glob("[!.]*.json"):
        record = read_json(path) or {}
        try:
            if time.time() - record["heartbeat_s"] < FETCH_STALE_AFTER_S:
                found[record["id"]] = (int(record["done_bytes"]), int(record["total_bytes"]))
        except (KeyError, TypeError, ValueError):
            continue
    return found


@contextlib.contextmanager
def told(layout: StoreLayout, tell: Callable[[str], None], every_s: float) -> Iterator[None]:
    """While the block runs, tell every so often how far each download into the store is."""
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(every_s):
            for scene, (done_bytes, total_bytes) in sorted(downloads(layout).items()):
                tell(f"scene {scene}: {done_bytes:,} of {total_bytes:,} bytes fetched")

    thread = threading.Thread(target=watch, name="fetch-progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
