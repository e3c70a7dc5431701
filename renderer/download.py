"""One scene from its source into a folder: in parallel ranges, resumed where it was cut off, paced, hashed, in time.

A file comes in blocks, each a request of its own; `progress-<name>` beside it counts what of each block lies there, so
that a kill costs no more than the chunks in flight. Both vouch for each other only since the last boot: after a crash
of the machine the tail of a file may be zeros.
"""

from __future__ import annotations

import asyncio
import dataclasses
import hashlib
import os
import shutil
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

from renderer.download_blocks import Blocks, PieceWriter
from renderer.fetch_terms import Stopped, Terms
from renderer.scene_source import (
    SINGLE_FILE,
    NoRanges,
    Part,
    Sink,
    SourceError,
    TryAgain,
    combined_digest,
)
from renderer.store_files import Pace, read_json, sync_folder, write_json

_CHUNK_BYTES = 256 << 10
_SYNC_BYTES = 64 << 20  # so much is written behind the download, not after it
_SMALLEST_CHUNK_BYTES = 16 << 10
_ORIGIN_FILE = "origin.json"
_WATCH_S = 0.05


class Source(Protocol):
    """What is downloaded: a SceneSource or a WebSource."""

    uri: str
    is_folder: bool
    parts: tuple[Part, ...]

    @property
    def total_bytes(self) -> int: ...

    def read(
        self, part: Part, span: tuple[int, int] | None, chunk_bytes: int | None, sink: Sink
    ) -> AsyncIterator[int]: ...

    def pause_s(self, part: Part, failures: int, error: TryAgain) -> float: ...


@dataclasses.dataclass(frozen=True, slots=True)
class Downloaded:
    """What a download brought: `fetched_bytes` came over the wire now, the rest lay there from an earlier try."""

    digest: str
    fetched_bytes: int
    seconds: float


class Download:
    """One download of a source to `folder/source`. `fetched_bytes` came over the wire, however it ended."""

    def __init__(self, source: Source, folder: Path, pace: Pace | None, terms: Terms, digest: str | None) -> None:
        """With a `digest` what an earlier try brought from another address is used as well."""
        self.source, self.folder, self.pace, self.terms = source, folder, pace, terms
        self.fetched_bytes = 0
        self.kept_bytes = 0  # lay there from an earlier try
        self._digest = digest
        self._done_bytes = 0
        self._busy_until_s = 0.0  # as a server said

    def run(self, progress: Callable[[int], None]) -> Downloaded:
        """Bring it, on disk for good, telling `progress` the bytes that lie there.

        Raises SourceError, OSError and Stopped.
        """
        began_s = time.monotonic()
        _prepare(self.source, self.folder, self._digest)
        digest = asyncio.run(self._watched(progress))
        return Downloaded(digest, self.fetched_bytes, time.monotonic() - began_s)

    async def _watched(self, progress: Callable[[int], None]) -> str:
        """All files, or the reason why they are not wanted any more."""
        work = asyncio.create_task(self._files())
        try:
            while not work.done():
                await asyncio.wait([work], timeout=_WATCH_S)
                progress(self._done_bytes)
                if self.terms.stopped():
                    raise Stopped(
                        f"{self.source.uri}: stopped at {self._done_bytes} of {self.source.total_bytes} bytes"
                    )
                if self.terms.end_s is not None and time.monotonic() > self.terms.end_s:
                    raise SourceError(
                        f"{self.source.uri}: {self._done_bytes} of {self.source.total_bytes} bytes had come "
                        "when the time for it was over"
                    )
            return work.result()
        finally:
            work.cancel()
            await asyncio.gather(work, return_exceptions=True)

    async def _files(self) -> str:
        target = self.folder / "source"
        if self.source.is_folder:
            target.mkdir(exist_ok=True)
        digests: dict[str, str] = {}
        for part in self.source.parts:
            fetch = _PartFetch(self, part, target / part.name if self.source.is_folder else target)
            self.kept_bytes += fetch.have_bytes
            self._done_bytes += fetch.have_bytes
            digests[part.name] = await fetch.run()
        if self.source.is_folder:
            sync_folder(target)
        for left in self.folder.iterdir():
            if left != target:
                left.unlink()
        return combined_digest(digests) if self.source.is_folder else digests[SINGLE_FILE]

    async def came(self, count_bytes: int) -> None:
        """So many bytes came and lie there; waits for the line to be free for the next."""
        self.fetched_bytes += count_bytes
        self._done_bytes += count_bytes
        if self.pace is not None:
            await asyncio.to_thread(self.pace.wait, count_bytes)

    def lost(self, count_bytes: int) -> None:
        """So many bytes that lay there have to come again."""
        self._done_bytes -= count_bytes

    async def pause(self, part: Part, failures: int, error: TryAgain) -> None:
        """Wait before a block is asked for again; what a busy server says holds for all blocks."""
        if time.monotonic() >= self._busy_until_s:
            pause_s = await asyncio.to_thread(self.source.pause_s, part, failures, error)
            self._busy_until_s = max(self._busy_until_s, time.monotonic() + pause_s)
        await asyncio.sleep(max(0.0, self._busy_until_s - time.monotonic()))

    @property
    def chunk_bytes(self) -> int | None:
        """A tenth of a second of the bandwidth, so that progress is smooth and neighbours get their turn."""
        if self.pace is None:
            return None
        return max(_SMALLEST_CHUNK_BYTES, min(_CHUNK_BYTES, int(self.pace.bytes_per_s / 10)))


def _prepare(source: Source, folder: Path, digest: str | None) -> None:
    """Keep the folder of an earlier try of the same files since the last boot, else start with an empty one."""
    origin = {
        "boot": Path("/proc/sys/kernel/random/boot_id").read_text().strip(),
        "digest": digest,
        "uri": None if digest else source.uri,
        "parts": [[part.name, part.size_bytes, None if digest else part.version] for part in source.parts],
    }
    if read_json(folder / _ORIGIN_FILE) != origin:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        write_json(folder / _ORIGIN_FILE, origin)


class _PartFetch:
    """One file of a download."""

    def __init__(self, download: Download, part: Part, path: Path) -> None:
        self._download, self._part, self._path = download, part, path
        self._blocks = Blocks(download.folder / f"progress-{part.name}", part.size_bytes, path)
        self.have_bytes = sum(self._blocks.have)
        self._grown = asyncio.Event()
        self._read = memoryview(bytearray(_CHUNK_BYTES))  # what is hashed

    async def run(self) -> str:
        """Fetch what is missing; the sha256 of the whole file."""
        self._file = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            try:
                digest = await self._ranges()
            except NoRanges:
                self._start_over()
                digest = await self._whole()
            os.ftruncate(self._file, self._part.size_bytes)
            await asyncio.to_thread(os.fsync, self._file)
        finally:
            os.close(self._file)
            self._blocks.close()
        return digest

    def _start_over(self) -> None:
        self._download.lost(sum(self._blocks.have))
        self._blocks.reset()

    async def _ranges(self) -> str:
        """Blocks in their order, several at once; their hash is taken behind them."""
        todo = iter([index for index in range(len(self._blocks.have)) if self._missing(index)])
        hashing = asyncio.create_task(self._hash())
        tasks = [hashing, *(asyncio.create_task(self._worker(todo)) for _ in range(self._download.terms.ranges))]
        try:
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        return hashing.result()

    def _missing(self, index: int) -> bool:
        start, end = self._blocks.span(index)
        return start < end

    async def _worker(self, todo: Iterator[int]) -> None:
        for index in todo:
            failures = 0
            while self._missing(index):
                before_bytes = self._blocks.have[index]
                try:
                    await self._block(index)
                except TryAgain as error:
                    failures = 1 if self._blocks.have[index] > before_bytes else failures + 1
                    if failures > self._download.terms.retries:
                        raise
                    await self._download.pause(self._part, failures, error)

    async def _block(self, index: int) -> None:
        span = self._blocks.span(index)
        is_all = span == (0, self._part.size_bytes)
        writer = PieceWriter(self._file, *span, self._wrong_length)
        try:
            async for count in self._download.source.read(
                self._part, None if is_all else span, self._download.chunk_bytes, writer.write
            ):
                self._blocks.add(index, count)
                self._grown.set()
                await self._download.came(count)
        finally:
            writer.close()
        if self._missing(index) and self._blocks.span(index) == span:
            raise self._wrong_length(span[0])

    async def _whole(self) -> str:
        """The file in one answer, from its start."""
        digest = hashlib.sha256()
        os.ftruncate(self._file, 0)
        writer = PieceWriter(self._file, 0, self._part.size_bytes, self._wrong_length)

        def write(piece: memoryview) -> None:
            writer.write(piece)
            digest.update(piece)

        try:
            async for count in self._download.source.read(self._part, None, self._download.chunk_bytes, write):
                await self._download.came(count)
        finally:
            writer.close()
        if writer.at_byte != self._part.size_bytes:
            raise self._wrong_length(writer.at_byte)
        return digest.hexdigest()

    def _wrong_length(self, came_bytes: int) -> SourceError:
        return SourceError(
            f"{self._download.source.uri}: {self._part.name} came with {came_bytes} bytes, "
            f"{self._part.size_bytes} were announced"
        )

    async def _hash(self) -> str:
        """The sha256, taken behind the blocks, and what it has seen on its way to the disk."""
        digest = hashlib.sha256()
        at_byte = synced_byte = 0
        syncing: asyncio.Future[None] | None = None
        while at_byte < self._part.size_bytes:
            end_byte = self._blocks.from_start_bytes()
            if end_byte == at_byte:
                self._grown.clear()
                await self._grown.wait()
            else:
                await asyncio.to_thread(self._update, digest, at_byte, end_byte)
                at_byte = end_byte
            if at_byte - synced_byte >= _SYNC_BYTES and (syncing is None or syncing.done()):
                synced_byte = at_byte
                syncing = asyncio.ensure_future(asyncio.to_thread(os.fdatasync, self._file))
        if syncing is not None:
            await syncing
        return digest.hexdigest()

    def _update(self, digest: Any, start_byte: int, end_byte: int) -> None:
        at_byte = start_byte
        while at_byte < end_byte:
            count = os.preadv(self._file, [self._read[: end_byte - at_byte]], at_byte)
            digest.update(self._read[:count])
            at_byte += count
