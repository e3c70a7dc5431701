"""Node names as kube-scheduler sends them: thousands a call, each looked up and written again, and never read as text.

They stay the bytes that they came as. Compiled loops find where each name lies, which row it has, and write answers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import compress
from typing import Any, overload

import msgspec
import numpy as np
from numba import types
from numpy.typing import NDArray

from scheduler_extender.compiled import compiled

Bytes = NDArray[np.uint8]
Spans = NDArray[np.int32]

_FNV_OFFSET, _FNV_PRIME = np.uint64(0xCBF29CE484222325), np.uint64(0x100000001B3)
_QUOTE, _COMMA, _CLOSE, _BACKSLASH = 0x22, 0x2C, 0x5D, 0x5C
_FIRST_PLAIN, _LAST_PLAIN = 0x20, 0x7E  # of ASCII: what JSON writes as it is, but for quote and backslash
_HOST, _SCORE = (np.frombuffer(text, np.uint8) for text in (b'{"Host":"', b'","Score":'))

# What the loops are compiled for when this is imported, so that no call waits for it.
_RAW = types.Array(types.uint8, 1, "C", readonly=True)
_BYTES, _INTS, _HASHES = types.uint8[::1], types.int32[::1], types.uint64[::1]
_ROWS, _MARKS = types.int64[::1], types.bool_[::1]


@compiled(types.int64(_RAW, _INTS, _INTS, _HASHES))
def _read(raw: Any, begins: Any, ends: Any, hashes: Any) -> int:
    """Where each name of `["a","b"]` lies, and its FNV-1a hash; how many there are, -1 where it is not so plain."""
    last = raw.size - 1
    if last < 1 or raw[0] != 0x5B or raw[last] != _CLOSE:
        return -1
    count, at = 0, 1
    while at < last:
        if raw[at] != _QUOTE:
            return -1
        at += 1
        begin, hashed = at, _FNV_OFFSET
        while at < last and raw[at] != _QUOTE:
            byte = raw[at]
            if byte < _FIRST_PLAIN or byte > _LAST_PLAIN or byte == _BACKSLASH:
                return -1
            hashed = (hashed ^ np.uint64(byte)) * _FNV_PRIME
            at += 1
        if at >= last:
            return -1
        begins[count], ends[count], hashes[count] = begin, at, hashed
        count += 1
        at += 1
        if at < last:
            if raw[at] != _COMMA or at + 1 == last:
                return -1
            at += 1
    return count


@compiled(types.void(_RAW, _INTS, _INTS, _HASHES, _INTS))
def _fill(known: Any, begins: Any, ends: Any, hashes: Any, slots: Any) -> None:
    """Put each known name where it is looked for first that is free; `slots` are a power of two, most of them -1."""
    most = slots.size - 1
    for number in range(begins.size):
        hashed = _FNV_OFFSET
        for at in range(begins[number], ends[number]):
            hashed = (hashed ^ np.uint64(known[at])) * _FNV_PRIME
        hashes[number] = hashed
        slot = np.int64(hashed) & most
        while slots[slot] >= 0:
            slot = (slot + 1) & most
        slots[slot] = number


@compiled(types.void(_RAW, _INTS, _INTS, _HASHES, _RAW, _INTS, _INTS, _HASHES, _INTS, _ROWS, types.int64, _ROWS))
def _look_up(
    raw: Any, begins: Any, ends: Any, hashes: Any,
    known: Any, known_begins: Any, known_ends: Any, known_hashes: Any, slots: Any, known_rows: Any,
    absent: int, rows: Any,
) -> None:  # fmt: skip
    """The row of each name; `absent` for one that is not known."""
    most = slots.size - 1
    for number in range(rows.size):
        rows[number] = absent
        slot = np.int64(hashes[number]) & most
        while slots[slot] >= 0:
            found = slots[slot]
            length = ends[number] - begins[number]
            if known_hashes[found] == hashes[number] and known_ends[found] - known_begins[found] == length:
                same = True
                for at in range(length):
                    same &= raw[begins[number] + at] == known[known_begins[found] + at]
                if same:
                    rows[number] = known_rows[found]
                    break
            slot = (slot + 1) & most


@compiled(types.int64(_RAW, _INTS, _INTS, _MARKS, _BYTES))
def _select(raw: Any, begins: Any, ends: Any, kept: Any, out: Any) -> int:
    """The list of those names that are marked; how many bytes it has."""
    out[0] = 0x5B
    length = 1
    for number in range(kept.size):
        if kept[number]:
            if length > 1:
                out[length] = _COMMA
                length += 1
            for at in range(begins[number] - 1, ends[number] + 1):
                out[length] = raw[at]
                length += 1
    out[length] = _CLOSE
    return length + 1


@compiled(types.int64(_RAW, _INTS, _INTS, _ROWS, _RAW, _RAW, _BYTES))
def _write_scores(raw: Any, begins: Any, ends: Any, scores: Any, host: Any, score: Any, out: Any) -> int:
    """`[{"Host":"a","Score":7},...]`; how many bytes it has. Scores are 0 to 99."""
    out[0] = 0x5B
    length = 1
    for number in range(scores.size):
        if number:
            out[length] = _COMMA
            length += 1
        for at in range(host.size):
            out[length + at] = host[at]
        length += host.size
        for at in range(begins[number], ends[number]):
            out[length] = raw[at]
            length += 1
        for at in range(score.size):
            out[length + at] = score[at]
        length += score.size
        if scores[number] >= 10:
            out[length] = 0x30 + scores[number] // 10
            length += 1
        out[length] = 0x30 + scores[number] % 10
        out[length + 1] = 0x7D
        length += 2
    out[length] = _CLOSE
    return length + 1


class Names(Sequence[str]):
    """The names of one call as a list in JSON, `["a","b"]`; texts are made when somebody asks for them."""

    __slots__ = ("_begins", "_ends", "_hashes", "_texts", "raw")

    def __init__(self, raw: bytes, begins: Spans, ends: Spans, hashes: NDArray[np.uint64]) -> None:
        self.raw = raw
        self._begins, self._ends, self._hashes = begins, ends, hashes
        self._texts: list[str] | None = None

    @classmethod
    def read(cls, raw: bytes) -> Names | None:
        """None for what is no list of plain names without a space between them: that is for a JSON decoder."""
        most = raw.count(b",") + 1
        begins, ends = np.empty((2, most), np.int32)
        hashes = np.empty(most, np.uint64)
        count = _read(np.frombuffer(raw, np.uint8), begins, ends, hashes)
        return None if count < 0 else cls(raw, begins[:count], ends[:count], hashes[:count])

    def __len__(self) -> int:
        return len(self._begins)

    @property
    def texts(self) -> list[str]:
        """All of them."""
        if self._texts is None:
            self._texts = msgspec.json.decode(self.raw, type=list[str])
        return self._texts

    def __iter__(self) -> Iterator[str]:
        return iter(self.texts)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice) or self._texts is not None:
            return self.texts[index]
        return self.raw[self._begins[index] : self._ends[index]].decode("ascii")

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Names):
            return self.raw == other.raw
        return isinstance(other, list) and self.texts == other

    __hash__ = None  # type: ignore[assignment]  # equal to lists, which have none

    def kept(self, kept: NDArray[np.bool_]) -> Names:
        """Those that are marked."""
        out = np.empty(len(self.raw) + 2, np.uint8)
        length = _select(np.frombuffer(self.raw, np.uint8), self._begins, self._ends, kept, out)
        read = Names.read(out[:length].tobytes())
        assert read is not None, "a part of a plain list is plain"
        return read

    def scored(self, scores: NDArray[np.int64]) -> bytes:
        """A bare array of Host and Score, which are 0 to 99."""
        out = np.empty(len(self.raw) + len(self) * (len(_HOST) + len(_SCORE) + 3) + 2, np.uint8)
        raw = np.frombuffer(self.raw, np.uint8)
        return out[: _write_scores(raw, self._begins, self._ends, scores, _HOST, _SCORE, out)].tobytes()

    def rows(self, index: Index, absent: int) -> NDArray[np.int64]:
        """[names]: the row of each by `index`, `absent` for one that it does not know."""
        rows = np.empty(len(self), np.int64)
        raw = np.frombuffer(self.raw, np.uint8)
        _look_up(raw, self._begins, self._ends, self._hashes, *index.arrays, absent, rows)
        return rows


def kept(names: Sequence[str], marked: NDArray[np.bool_]) -> Sequence[str]:
    """Those of the names that are marked, of whatever kind they are."""
    return names.kept(marked) if isinstance(names, Names) else list(compress(names, marked.tolist()))


class Index:
    """The rows of known names for `Names.rows`; made anew where they change."""

    __slots__ = ("arrays",)

    def __init__(self, rows: Mapping[str, int]) -> None:
        encoded = [name.encode("utf-8", "surrogatepass") for name in rows]
        known = np.frombuffer(b"".join(encoded), np.uint8)
        ends = np.cumsum([len(name) for name in encoded], dtype=np.int32)
        begins = np.append(np.int32(0), ends)[: len(ends)]
        hashes = np.empty(len(rows), np.uint64)
        slots = np.full(1 << max(4, (2 * len(rows)).bit_length()), -1, np.int32)
        _fill(known, begins, ends, hashes, slots)
        self.arrays = (known, begins, ends, hashes, slots, np.fromiter(rows.values(), np.int64, len(rows)))
