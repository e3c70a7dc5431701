"""Small files that several processes share: JSON renamed into place, flock, and one clock that paces them all."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, BinaryIO

_POLL_S = 0.02
_CLOCK = struct.Struct("<d")
_LONGEST_QUEUE_S = 60.0  # a later time in the pace file was written before a reboot


def read_json(path: Path) -> dict[str, Any] | None:
    """The object in a file; None where there is none or it is damaged."""
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


@contextlib.contextmanager
def replacing(path: Path, durable: bool = False) -> Iterator[BinaryIO]:
    """A file that takes the place of `path` once it is whole; `durable` waits for the disk."""
    if not path.name or (path.exists() and not path.is_file()):
        raise OSError(errno.EINVAL, "a folder, a device or a pipe is not replaced by a file", str(path))
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{os.urandom(4).hex()}.tmp")
    try:
        with temporary.open("xb") as file:
            yield file
            if durable:
                file.flush()
                os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    if durable:
        sync_folder(path.parent)


def write_json(path: Path, document: dict[str, Any], durable: bool = False) -> None:
    """Write a JSON file whole or not at all; `durable` waits for the disk."""
    with replacing(path, durable) as file:
        file.write(json.dumps(document).encode())


def sync_folder(folder: Path) -> None:
    """Make renames inside a folder survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def tree_bytes(path: Path) -> int:
    """Bytes of a file or of all files under a folder; 0 where it is gone."""
    try:
        if not path.is_dir():
            return path.stat().st_size
        return sum(tree_bytes(child) for child in path.iterdir())
    except FileNotFoundError:
        return 0


@contextlib.contextmanager
def locked(path: Path, exclusive: bool) -> Iterator[None]:
    """Hold a flock on `path`, made if need be; waits for it. Works between threads as between processes."""
    with _lockable(path) as file:
        wanted = fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH
        while True:
            try:
                fcntl.flock(file, wanted | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                time.sleep(_POLL_S)
        yield


def _lockable(path: Path) -> IO[bytes]:
    """The file of a lock, made if need be; on a disk that became read-only what is there can still be read."""
    try:
        return path.open("ab")
    except OSError as error:
        if error.errno != errno.EROFS or not path.exists():
            raise
        return path.open("rb")


@contextlib.contextmanager
def locked_if_free(path: Path) -> Iterator[bool]:
    """Hold an exclusive flock if nobody holds one now; yields whether it is held."""
    with _lockable(path) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield True


class Pace:
    """A bandwidth that all processes of a node share: each takes its turn on one clock in a file.

    The file holds the CLOCK_MONOTONIC second until which the line is taken.
    """

    def __init__(self, path: Path, bytes_per_s: float) -> None:
        self._path = path
        self.bytes_per_s = bytes_per_s

    def wait(self, count_bytes: int) -> None:
        """Return once `count_bytes` more may have passed."""
        length_s = count_bytes / self.bytes_per_s
        with locked(self._path, exclusive=True), self._path.open("r+b") as file:
            now_s = time.monotonic()
            raw = file.read(_CLOCK.size)
            taken_s = _CLOCK.unpack(raw)[0] if len(raw) == _CLOCK.size else 0.0
            if not now_s < taken_s < now_s + max(_LONGEST_QUEUE_S, 10 * length_s):
                taken_s = now_s
            until_s = taken_s + length_s
            file.seek(0)
            file.write(_CLOCK.pack(until_s))
        time.sleep(max(0.0, until_s - time.monotonic()))
