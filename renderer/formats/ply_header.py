"""The header of any PLY: its encoding, elements and comments, and how long the file is."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from renderer.splats import SceneFileError

MAX_HEADER_BYTES = 1 << 16
MAX_PROPERTIES = 512
_TYPES = {
    **dict.fromkeys(("float", "float32"), "f4"),
    **dict.fromkeys(("double", "float64"), "f8"),
    **dict.fromkeys(("char", "int8"), "i1"),
    **dict.fromkeys(("uchar", "uint8"), "u1"),
    **dict.fromkeys(("short", "int16"), "i2"),
    **dict.fromkeys(("ushort", "uint16"), "u2"),
    **dict.fromkeys(("int", "int32"), "i4"),
    **dict.fromkeys(("uint", "uint32"), "u4"),
}
_ENCODINGS = {"binary_little_endian": "<", "binary_big_endian": ">", "ascii": ""}


@dataclass(frozen=True, slots=True)
class Element:
    """One table of the payload; a list property has no fixed size and leaves `row` unusable."""

    name: str
    count: int
    properties: list[tuple[str, str]]
    lists: list[str]


@dataclass(frozen=True, slots=True)
class PlyHeader:
    """What stands before end_header."""

    file: Path
    byte_order: str  # < or > of numpy; empty is ASCII
    elements: list[Element]
    comments: list[list[str]]  # words in lower case
    header_bytes: int
    disk_bytes: int

    @property
    def payload_bytes(self) -> int:
        return self.disk_bytes - self.header_bytes

    @property
    def compressed(self) -> bool:
        """Whether it is the PLY of 256 splats a chunk."""
        return any(element.name == "chunk" for element in self.elements)

    def row(self, element: Element) -> np.dtype[np.void]:
        """The binary layout of one row; raises SceneFileError for names that are there twice or lists."""
        names = [name for name, _ in element.properties]
        if len(names) > MAX_PROPERTIES or len(set(names)) != len(names):
            raise SceneFileError(self.file, "properties", len(names), f"at most {MAX_PROPERTIES}, each name once")
        if element.lists:
            raise SceneFileError(self.file, "property", element.lists[0], f"{element.name} may have no list")
        return np.dtype(
            [(name, (self.byte_order if kind[1] != "1" else "") + kind) for name, kind in element.properties]
        )


def read_ply_header(path: Path) -> PlyHeader:
    """Read the header alone; raises SceneFileError."""
    try:
        with path.open("rb") as file:
            lines = list(_lines(path, file))
            header_bytes = file.tell()
            disk_bytes = os.fstat(file.fileno()).st_size
    except OSError as error:
        raise SceneFileError(path, "file", error.strerror or error, "expected a readable PLY") from error
    comments = [[word.lower() for word in words[1:]] for words in lines if words[0] == "comment"]
    return PlyHeader(path, _byte_order(path, lines), _elements(path, lines), comments, header_bytes, disk_bytes)


def _lines(path: Path, file: BinaryIO) -> Iterator[list[str]]:
    while file.tell() <= MAX_HEADER_BYTES:
        line = file.readline(4096)
        if not line.endswith(b"\n"):
            raise SceneFileError(path, "header", f"{file.tell()} bytes without end_header", "the file is cut off")
        words = line.decode("ascii", "replace").split()
        if words == ["end_header"]:
            return
        if words:
            yield words
    raise SceneFileError(path, "header", f"over {MAX_HEADER_BYTES} bytes", f"at most {MAX_HEADER_BYTES} are read")


def _byte_order(path: Path, lines: list[list[str]]) -> str:
    named = next((words[1] for words in lines if words[0] == "format" and len(words) > 1), "absent")
    if named not in _ENCODINGS:
        raise SceneFileError(path, "format", named, f"expected one of {', '.join(_ENCODINGS)}")
    return _ENCODINGS[named]


def _elements(path: Path, lines: list[list[str]]) -> list[Element]:
    elements: list[Element] = []
    for words in lines:
        match words:
            case ["element", name, count] if count.isascii() and count.isdigit() and len(count) < 19:
                elements.append(Element(name, int(count), [], []))
            case ["element", *rest]:
                raise SceneFileError(path, "element", " ".join(rest), "expected a name and a count")
            case ["property", "list", *_] if elements:
                elements[-1].lists.append(" ".join(words[1:]))
            case ["property", kind, name] if elements and kind in _TYPES:
                elements[-1].properties.append((name, _TYPES[kind]))
            case ["property", *rest]:
                raise SceneFileError(
                    path, "property", " ".join(rest), f"expected one of {', '.join(_TYPES)} and a name"
                )
    return elements
