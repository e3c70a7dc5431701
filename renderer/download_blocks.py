"""The file of a download in blocks: what of each lies there, and who writes the next piece."""

from __future__ import annotations

import array
import os
import threading
from collections.abc import Callable
from pathlib import Path

from renderer.scene_source import SourceError

BLOCK_BYTES = 8 << 20


class Blocks:
    """How many bytes of each block of a file lie there, kept in a file beside it."""

    def __init__(self, path: Path, size_bytes: int, data: Path) -> None:
        self.size_bytes = size_bytes
        count = -(-size_bytes // BLOCK_BYTES)
        self.have = array.array("I", bytes(4 * count))
        raw = path.read_bytes() if path.exists() else b""
        if len(raw) == 4 * count:
            self.have.frombytes(raw)
            self.have = self.have[count:]
        ends = [self.span(index)[0] for index, have in enumerate(self.have) if have]
        lies_bytes = data.stat().st_size if data.exists() else 0
        fits = all(have <= self.end(index) - index * BLOCK_BYTES for index, have in enumerate(self.have))
        if not fits or max(ends, default=0) > lies_bytes:
            self.have = array.array("I", bytes(4 * count))
        path.write_bytes(self.have.tobytes())
        self._file = os.open(path, os.O_WRONLY)

    def end(self, index: int) -> int:
        return min((index + 1) * BLOCK_BYTES, self.size_bytes)

    def span(self, index: int) -> tuple[int, int]:
        """What is missing of a block, as offsets in the file."""
        return index * BLOCK_BYTES + self.have[index], self.end(index)

    def add(self, index: int, count_bytes: int) -> None:
        self.have[index] += count_bytes
        os.pwrite(self._file, self.have[index : index + 1].tobytes(), 4 * index)

    def reset(self) -> None:
        for index in range(len(self.have)):
            self.add(index, -self.have[index])

    def from_start_bytes(self) -> int:
        """Bytes that lie there without a gap."""
        for index in range(len(self.have)):
            start, end = self.span(index)
            if start < end:
                return start
        return self.size_bytes

    def close(self) -> None:
        os.close(self._file)


class PieceWriter:
    """Pieces of a file from one byte to another, written by whatever thread has them until it is closed."""

    def __init__(self, file: int, start: int, end: int, wrong_length: Callable[[int], SourceError]) -> None:
        self._file, self._end, self._wrong_length = file, end, wrong_length
        self._lock = threading.Lock()
        self._is_open = True
        self.at_byte = start

    def write(self, piece: memoryview) -> None:
        """Put it behind the last one; raises SourceError where there is no room for it, OSError."""
        with self._lock:
            if not self._is_open:  # the file may be another's by now
                raise SourceError("the download was given up")
            if self.at_byte + len(piece) > self._end:
                raise self._wrong_length(self.at_byte + len(piece))
            done = 0
            while done < len(piece):
                done += os.pwrite(self._file, piece[done:], self.at_byte + done)
            self.at_byte += len(piece)

    def close(self) -> None:
        """Wait for the piece that is being written; none comes after it."""
        with self._lock:
            self._is_open = False
