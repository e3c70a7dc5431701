"""The containers of SPZ: their headers, and their streams unpacked piece by piece and never beyond what was said."""

from __future__ import annotations

import os
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import IO, BinaryIO, Protocol, cast

from renderer.formats.assembly import check_expansion
from renderer.splats import MAX_GAUSSIANS, SceneFileError

MAGIC = b"NGSP"
GZIP = b"\x1f\x8b\x08"
MAX_EXTENSION_BYTES = 1 << 16
_MAX_WINDOW_BYTES = 1 << 27
_ANTIALIASED, _EXTENSIONS = 1, 2
_HEADER = struct.Struct("<4sIIBBBB")  # magic, version, Gaussians, SH degree, fraction bits, flags, streams (v4)
_V4_HEADER_BYTES = 32
_TOC_ENTRY = struct.Struct("<QQ")  # compressed and raw bytes of a stream
_MAX_FRACTION_BITS = 23  # of 24 bits with a sign
_MAX_STORED_DEGREE = 4
_READ_BYTES = 1 << 16
_MAX_IDLE_BYTES = 1 << 20  # of gzip that unpack to nothing
_RECORD = struct.Struct("<II")  # type and length of an extension
_COORDINATE_SYSTEM = 0xADBE0003
_RIGHT_UP_BACK = 4


@dataclass(frozen=True, slots=True)
class SpzLayout:
    """What the header says, checked against the file's length."""

    file: Path
    version: int
    gaussians: int
    sh_degree: int  # of what is loaded: at most 3
    fraction_bits: int
    antialiased: bool
    extended: bool
    flips: tuple[int, int, int]  # signs that turn the file's axes right, down and forward
    row_bytes: dict[str, int]  # by attribute, in the file's order
    streams: dict[str, tuple[int, int]]  # by attribute: start and length in the file (v4)
    gzipped: bool
    disk_bytes: int

    @property
    def format(self) -> str:
        return f"spz-v{self.version}"


def read_layout(path: Path) -> SpzLayout:
    """Read and check the header alone; raises SceneFileError."""
    try:
        with path.open("rb") as file:
            disk_bytes = os.fstat(file.fileno()).st_size
            gzipped = file.read(len(GZIP)) == GZIP
            file.seek(0)
            start = _Gzip(path, file).take(_HEADER.size) if gzipped else file.read(_V4_HEADER_BYTES)
            if len(start) < _HEADER.size or not start.startswith(MAGIC):
                raise SceneFileError(path, "magic", start[:4], f"expected {MAGIC!r}, bare or in gzip")
            return _layout(path, file, start, gzipped, disk_bytes)
    except OSError as error:
        raise SceneFileError(path, "file", error.strerror or error, "expected a readable SPZ") from error


class Payload:
    """Hands out the attributes of a payload in the file's order; at its `end` nothing may be left over."""

    def __init__(self, layout: SpzLayout, file: BinaryIO) -> None:
        self._layout, self._file = layout, file
        self._name = ""
        self._stream: _Stream = _Bare(layout.file, file)
        if layout.version < 4:
            if layout.gzipped:
                self._stream = _Gzip(layout.file, file)
            self._stream.take(_HEADER.size)

    def take(self, name: str, length: int) -> bytes:
        """The next bytes of an attribute; raises SceneFileError where they are not there."""
        if self._layout.version == 4 and name != self._name:
            if self._name:
                self._stream.left(0)
            self._name = name
            self._stream = _Zstd(self._layout, self._file, name)
        return self._stream.take(length)

    def end(self) -> tuple[int, int, int]:
        """The signs that turn the file's axes right, down and forward; before v4 an extension follows the splats."""
        trailing = self._layout.extended and self._layout.version < 4
        left = self._stream.left(MAX_EXTENSION_BYTES if trailing else 0)
        return _flips(self._layout.file, left) if trailing else self._layout.flips


def _layout(path: Path, file: BinaryIO, start: bytes, gzipped: bool, disk_bytes: int) -> SpzLayout:
    _, version, gaussians, degree, fraction_bits, flags, streams = _HEADER.unpack_from(start)
    for name, value, good, said in (
        ("version", version, 1 <= version <= (3 if gzipped else 4), "1 to 3 in gzip and 1 to 4 bare have a reader"),
        ("Gaussians", gaussians, 1 <= gaussians <= MAX_GAUSSIANS, f"1 to {MAX_GAUSSIANS} are allowed"),
        ("SH degree", degree, degree <= _MAX_STORED_DEGREE, f"0 to {_MAX_STORED_DEGREE} are allowed"),
        ("fraction bits", fraction_bits, fraction_bits <= _MAX_FRACTION_BITS, f"0 to {_MAX_FRACTION_BITS} are allowed"),
    ):
        if not good:
            raise SceneFileError(path, name, value, said)
    widths = {
        "positions": 6 if version == 1 else 9,
        "alphas": 1,
        "colours": 3,
        "scales": 3,
        "rotations": 3 if version < 3 else 4,
        "sh": 3 * ((degree + 1) ** 2 - 1),
    }
    widths = {name: width for name, width in widths.items() if width}
    payload_bytes = gaussians * sum(widths.values())
    check_expansion(path, payload_bytes, disk_bytes)
    if not gzipped and version < 4 and payload_bytes > disk_bytes - _HEADER.size:
        raise SceneFileError(path, "length", f"{disk_bytes} bytes", f"{gaussians} Gaussians take {payload_bytes}")
    table: dict[str, tuple[int, int]] = {}
    flips = (1, -1, -1)
    if version == 4:
        if streams != len(widths):
            raise SceneFileError(path, "streams", streams, f"SH degree {degree} takes {len(widths)}")
        table, flips = _table(path, file, start, {name: gaussians * width for name, width in widths.items()})
    return SpzLayout(
        path, version, gaussians, min(degree, 3), fraction_bits, bool(flags & _ANTIALIASED), bool(flags & _EXTENSIONS),
        flips, widths, table, gzipped, disk_bytes,
    )  # fmt: skip


def _table(
    path: Path, file: BinaryIO, start: bytes, raw_bytes: dict[str, int]
) -> tuple[dict[str, tuple[int, int]], tuple[int, int, int]]:
    """Start and length of every stream, and the axes' signs of an extension."""
    if len(start) < _V4_HEADER_BYTES:
        raise SceneFileError(path, "length", f"{len(start)} bytes", f"a v4 header has {_V4_HEADER_BYTES}")
    (at,) = struct.unpack_from("<I", start, _HEADER.size)
    if not _V4_HEADER_BYTES <= at <= _V4_HEADER_BYTES + MAX_EXTENSION_BYTES:
        said = f"expected {_V4_HEADER_BYTES} and at most {MAX_EXTENSION_BYTES} bytes of extensions"
        raise SceneFileError(path, "start of the table of contents", at, said)
    file.seek(_V4_HEADER_BYTES)
    flips = _flips(path, file.read(at - _V4_HEADER_BYTES))
    raw = file.read(_TOC_ENTRY.size * len(raw_bytes))
    if len(raw) != _TOC_ENTRY.size * len(raw_bytes):
        raise SceneFileError(path, "table of contents", f"{len(raw)} bytes", f"it is cut off, {len(raw_bytes)} streams")
    end = at + len(raw)
    table: dict[str, tuple[int, int]] = {}
    for (name, expected), (length, unpacked) in zip(raw_bytes.items(), _TOC_ENTRY.iter_unpack(raw), strict=True):
        if unpacked != expected:
            raise SceneFileError(path, f"raw bytes of {name}", unpacked, f"expected {expected}")
        table[name] = (end, length)
        end += length
    disk_bytes = os.fstat(file.fileno()).st_size
    if end != disk_bytes:
        raise SceneFileError(path, "length", f"{disk_bytes} bytes", f"its streams reach to byte {end}")
    return table, flips


def _flips(path: Path, raw: bytes) -> tuple[int, int, int]:
    """The signs that turn the file's axes right, down and forward; records of other kinds do not change the splats."""
    at, system = 0, _RIGHT_UP_BACK
    while at < len(raw):
        if len(raw) - at < _RECORD.size:
            raise SceneFileError(path, "extensions", f"{len(raw) - at} bytes left over", "expected whole records")
        kind, length = _RECORD.unpack_from(raw, at)
        at += _RECORD.size
        if length > len(raw) - at:
            raise SceneFileError(path, f"length of extension {kind:#x}", length, f"{len(raw) - at} bytes are left")
        if kind == _COORDINATE_SYSTEM:
            system = int.from_bytes(raw[at : at + length], "little") or _RIGHT_UP_BACK
        at += length
    if not 1 <= system <= 8:
        raise SceneFileError(path, "coordinate system", system, "1 to 8 (y up or down) have a reader")
    bits = system - 1  # of right, up and front
    return (1 if bits & 1 else -1, -1 if bits & 2 else 1, 1 if bits & 4 else -1)


class _Stream(Protocol):
    def take(self, length: int) -> bytes:
        """Exactly the next bytes; raises SceneFileError where they are not there."""
        ...

    def left(self, most: int) -> bytes:
        """What is left, of which there may be `most` bytes."""
        ...


class _Bare:
    def __init__(self, path: Path, file: BinaryIO) -> None:
        self._path, self._file = path, file

    def take(self, length: int) -> bytes:
        return _exactly(self._path, self._file.read(length), length)

    def left(self, most: int) -> bytes:
        return _at_most(self._path, self._file.read(most + 1), most)


class _Gzip:
    """Never asks for more output than is wanted, so that a bomb has nowhere to go off."""

    def __init__(self, path: Path, file: BinaryIO) -> None:
        self._path, self._file = path, file
        self._unpacker = zlib.decompressobj(31)
        self._packed = b""

    def take(self, length: int) -> bytes:
        return _exactly(self._path, self._some(length), length)

    def left(self, most: int) -> bytes:
        rest = _at_most(self._path, self._some(most + 1), most)
        if not self._unpacker.eof:
            raise SceneFileError(self._path, "gzip stream", "without its end", "the file is cut off")
        return rest

    def _some(self, length: int) -> bytes:
        out, idle_bytes = bytearray(), 0
        try:
            while len(out) < length and not self._unpacker.eof and idle_bytes < _MAX_IDLE_BYTES:
                if not self._packed:
                    self._packed = self._file.read(_READ_BYTES)
                if not self._packed:
                    break
                piece = self._unpacker.decompress(self._packed, length - len(out))
                idle_bytes = 0 if piece else idle_bytes + len(self._packed)
                out += piece
                self._packed = self._unpacker.unconsumed_tail
        except zlib.error as error:
            raise SceneFileError(self._path, "gzip stream", error, "the file is damaged") from error
        return bytes(out)


class _Zstd:
    """One stream of a v4 file, read from its own part of it."""

    def __init__(self, layout: SpzLayout, file: BinaryIO, name: str) -> None:
        try:
            import zstandard
        except ModuleNotFoundError as error:
            said = "it needs the package zstandard: pip install 'splatfleet[renderer]'"
            raise SceneFileError(layout.file, "format", layout.format, said) from error
        self._path, self._name, self._error = layout.file, name, zstandard.ZstdError
        part = _Part(file, *layout.streams[name])
        unpacker = zstandard.ZstdDecompressor(max_window_size=_MAX_WINDOW_BYTES)
        self._reader = unpacker.stream_reader(cast(IO[bytes], part), read_size=_READ_BYTES, read_across_frames=True)

    def take(self, length: int) -> bytes:
        return _exactly(self._path, self._some(length), length)

    def left(self, most: int) -> bytes:
        return _at_most(self._path, self._some(most + 1), most)

    def _some(self, length: int) -> bytes:
        out = bytearray()
        try:
            while len(out) < length and (piece := self._reader.read(length - len(out))):
                out += piece
        except (self._error, MemoryError) as error:
            raise SceneFileError(self._path, f"zstd stream of {self._name}", error, "the file is damaged") from error
        return bytes(out)


class _Part:
    """A file that begins and ends inside another."""

    def __init__(self, file: BinaryIO, start: int, length: int) -> None:
        self._file, self._at, self._end = file, start, start + length

    def read(self, length: int = -1) -> bytes:
        left = self._end - self._at
        self._file.seek(self._at)
        piece = self._file.read(left if length < 0 else min(length, left))
        self._at += len(piece)
        return piece


def _exactly(path: Path, got: bytes, length: int) -> bytes:
    if len(got) != length:
        raise SceneFileError(path, "payload", f"{len(got)} bytes", f"{length} were expected: it is cut off")
    return got


def _at_most(path: Path, got: bytes, most: int) -> bytes:
    if len(got) > most:
        raise SceneFileError(path, "payload", "longer than its header tells", f"at most {most} bytes may follow")
    return got
