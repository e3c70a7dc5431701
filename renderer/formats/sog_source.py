"""Where the members of a SOG lie, a folder or a zip, read with a limit on every size."""

from __future__ import annotations

import io
import os
import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from renderer.formats.assembly import MAX_EXPANSION
from renderer.splats import SceneFileError

MAX_MEMBERS = 64
MAX_DIRECTORY_BYTES = 1 << 20


class Source(Protocol):
    """Named members of one SOG."""

    path: Path

    def read(self, name: str, limit_bytes: int) -> bytes:
        """A member whole; raises SceneFileError where it is absent or over the limit."""
        ...

    def start(self, name: str, length_bytes: int) -> bytes:
        """The first bytes of a member."""
        ...

    def disk_bytes(self) -> int:
        """Bytes of all members as they lie on disk."""
        ...


class _Folder:
    def __init__(self, path: Path) -> None:
        self.path = path
        self._asked: set[str] = set()

    def read(self, name: str, limit_bytes: int) -> bytes:
        file = self._file(name)
        try:
            size = file.stat().st_size
            if size > limit_bytes:
                raise SceneFileError(self.path, f"size of {name}", f"{size} bytes", f"at most {limit_bytes} are read")
            return file.read_bytes()
        except OSError as error:
            raise SceneFileError(self.path, name, error.strerror or error, "meta.json names it") from error

    def start(self, name: str, length_bytes: int) -> bytes:
        try:
            with self._file(name).open("rb") as file:
                return file.read(length_bytes)
        except OSError as error:
            raise SceneFileError(self.path, name, error.strerror or error, "meta.json names it") from error

    def disk_bytes(self) -> int:
        return sum(self._file(name).stat().st_size for name in self._asked)

    def _file(self, name: str) -> Path:
        if not name or name in (".", "..") or "/" in name or "\\" in name or "\0" in name:
            raise SceneFileError(self.path, "file name", repr(name), "a plain name in the same folder is expected")
        try:
            os.fsencode(name)
        except UnicodeEncodeError as error:
            raise SceneFileError(self.path, "file name", repr(name), "a name of this system is expected") from error
        file = self.path / name
        if file.exists() and not file.is_file():
            raise SceneFileError(self.path, name, "no regular file", "meta.json names it")
        self._asked.add(name)
        return file


class _Zip:
    def __init__(self, path: Path, archive: zipfile.ZipFile) -> None:
        self.path = path
        self._archive = archive
        self._prefix = ""
        members = archive.infolist()
        if len(members) > MAX_MEMBERS:
            raise SceneFileError(path, "members of the zip", len(members), f"at most {MAX_MEMBERS} are allowed")
        metas = [member.filename for member in members if member.filename.rsplit("/", 1)[-1] == "meta.json"]
        if metas:
            self._prefix = metas[0].removesuffix("meta.json")

    def read(self, name: str, limit_bytes: int) -> bytes:
        member = self._member(name)
        if member.file_size > limit_bytes or member.file_size > MAX_EXPANSION * max(member.compress_size, 1) + 4096:
            said = f"at most {limit_bytes} bytes and {MAX_EXPANSION} times its compressed size are unpacked"
            raise SceneFileError(self.path, f"size of {name}", f"{member.file_size} bytes", said)
        return self._take(member, member.file_size)

    def start(self, name: str, length_bytes: int) -> bytes:
        return self._take(self._member(name), length_bytes)

    def disk_bytes(self) -> int:
        return self.path.stat().st_size

    def _member(self, name: str) -> zipfile.ZipInfo:
        try:
            member = self._archive.getinfo(self._prefix + name)
        except KeyError as error:
            raise SceneFileError(self.path, name, "absent", "the zip must hold it") from error
        if member.flag_bits & 1 or member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise SceneFileError(self.path, name, "encrypted or oddly compressed", "expected stored or deflated")
        return member

    def _take(self, member: zipfile.ZipInfo, length_bytes: int) -> bytes:
        try:
            with self._archive.open(member) as file:
                return file.read(length_bytes)
        except (OSError, zipfile.BadZipFile, EOFError, ValueError, RuntimeError, zlib.error) as error:
            raise SceneFileError(self.path, member.filename, error, "the zip is damaged") from error


@contextmanager
def open_source(path: Path) -> Iterator[Source]:
    """The members of a SOG folder (or its meta.json) or of a .sog zip; raises SceneFileError."""
    if path.name == "meta.json":
        path = path.parent
    if path.is_dir():
        yield _Folder(path)
        return
    try:
        file = _CautiousFile(io.FileIO(path))
        archive = zipfile.ZipFile(file)
    except (OSError, zipfile.BadZipFile, ValueError, NotImplementedError, struct.error) as error:
        raise SceneFileError(path, "zip", error, "expected a whole .sog") from error
    with file, archive:
        file.cautious = False
        yield _Zip(path, archive)


class _CautiousFile(io.BufferedReader):
    """Refuses a central directory of a million members, which zipfile would take in before one could count them."""

    cautious = True

    def read(self, size: int | None = -1, /) -> bytes:
        if self.cautious and size is not None and size > MAX_DIRECTORY_BYTES:
            raise zipfile.BadZipFile(f"a central directory of {size} bytes, at most {MAX_DIRECTORY_BYTES} are read")
        return super().read(size)
