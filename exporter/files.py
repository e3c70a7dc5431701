"""Small files that others write and rename into place."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Generic, TypeVar

import msgspec

Content = TypeVar("Content")
Stamp = tuple[int, int, int]  # inode, mtime in ns, size in bytes: what a rename into place changes

MAX_BYTES = 16 * 1024 * 1024


class FileError(Exception):
    """A file that cannot be read as what it should be; one sentence that names it."""


def stamp_of(status: os.stat_result) -> Stamp:
    return status.st_ino, status.st_mtime_ns, status.st_size


def read_regular(path: str | Path, limit_bytes: int, follow: bool = True) -> tuple[bytes, Stamp]:
    """The bytes of a regular file of at most `limit_bytes`, and the stamp of those very bytes.

    Raises FileError for anything else, a named pipe included (which would hang a plain open). `follow` says whether
    a symbolic link is read: ConfigMaps are mounted as links, a scene store has none.
    """
    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | (0 if follow else os.O_NOFOLLOW)
    try:
        descriptor = os.open(path, flags)
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise FileError(f"{path}: not a regular file")
            if status.st_size > limit_bytes:
                raise FileError(f"{path}: {status.st_size} bytes, expected at most {limit_bytes}")
            return os.read(descriptor, limit_bytes), stamp_of(status)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise FileError(f"{path}: {error.strerror or error}") from error


class WatchedFile(Generic[Content]):
    """A JSON file that is decoded again whenever it changes; a broken one leaves the last good content standing.

    `check` raises ValueError for content that decodes and yet is wrong.
    """

    def __init__(self, path: Path, content: type[Content], check: Callable[[Content], None]) -> None:
        self.path = path
        self.problem = ""
        self._check = check
        self._decoder = msgspec.json.Decoder(content)
        self._stamp: Stamp | None = None
        self._content: Content | None = None

    def read(self) -> Content | None:
        """The last good content, None before there was one; `problem` says why the file itself is not it."""
        try:
            stamp = stamp_of(os.stat(self.path))
            if stamp == self._stamp:
                return self._content  # decoded or found broken already, and `problem` still says so
            text, self._stamp = read_regular(self.path, MAX_BYTES)
            content = self._decoder.decode(text)
            self._check(content)
            self._content, self.problem = content, ""
        except OSError as error:
            self._stamp, self.problem = None, f"{self.path}: {error.strerror or error}"
        except FileError as error:
            self._stamp, self.problem = None, str(error)
        except (msgspec.MsgspecError, ValueError) as error:
            self.problem = f"{self.path}: {error}"
        return self._content
