"""A scene behind HTTP, at a server or at another node's agent: ranges over kept connections, a thread each while read.

Our own client: obstore follows a redirect wherever it leads and takes a session token along, knows no certificate of a
client and no private CA, and does not show Retry-After. Here bytes go from the socket to the disk with one copy on the
way.
"""

from __future__ import annotations

import asyncio
import http.client
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

from renderer.busy_server import BUSY, parse_retry_after
from renderer.fetch_terms import Terms
from renderer.scene_source import (
    LARGEST_META_BYTES,
    META_FILE,
    SINGLE_FILE,
    Busy,
    NoRanges,
    Part,
    Sink,
    SourceError,
    TryAgain,
    files_in_meta,
    patiently,
    pause_after,
)
from renderer.web_client import Access, Turn, WebClient, told

_CHUNK_BYTES = 2 << 20
_PASSING = (408, 500, 502, 504)


class WebSource:
    """The files of one scene behind HTTP, listed when made; raises SourceError or fetch_terms.Stopped."""

    def __init__(
        self, uri: str, files: tuple[str, str], address: Callable[[str, str], str], access: Access, terms: Terms
    ) -> None:
        """`files` are their folder and the scene's one file, empty for a folder; `address(verb, key)` is a URL.

        The URL is made anew for every request, so that it may carry a signature.
        """
        self.uri, self._address, self._terms = uri, address, terms
        self._client = WebClient(uri, access)
        self._threads = ThreadPoolExecutor(terms.ranges, "range")
        folder, name = files
        self.is_folder = not name or name == META_FILE
        if self.is_folder:
            names = [META_FILE, *self._named_in_meta(folder + META_FILE)]
            self.parts = tuple(self._part(each, folder + each) for each in names)
        else:
            self.parts = (self._part(SINGLE_FILE, folder + name),)

    @property
    def total_bytes(self) -> int:
        return sum(part.size_bytes for part in self.parts)

    async def read(
        self, part: Part, span: tuple[int, int] | None, chunk_bytes: int | None, sink: Sink
    ) -> AsyncIterator[int]:
        """Bytes `start` to `end` of a part (None: all) into the sink, telling how many came each time.

        Raises SourceError, its kinds TryAgain and NoRanges where they fit.
        """
        run = asyncio.get_running_loop().run_in_executor
        start, end = span or (0, part.size_bytes)
        turn = Turn()
        try:
            answer = await run(self._threads, self._open, turn, part, span)
            buffer = memoryview(bytearray(min(chunk_bytes or _CHUNK_BYTES, max(1, end - start))))
            while start < end:
                count = await run(self._threads, self._pass_on, turn, answer, buffer[: end - start], sink)
                if count == 0:
                    raise TryAgain(f"{self.uri}: the answer ended {end - start} bytes early")
                start += count
                yield count
            self._client.done(turn, answer)
        finally:
            turn.end()

    def pause_s(self, _part: Part, failures: int, error: TryAgain) -> float:
        """How long to wait before a part is asked for again: what a busy server said, else longer each time."""
        asked_s = error.asked_s if isinstance(error, Busy) else None
        return pause_after(failures) if asked_s is None else asked_s

    def _open(self, turn: Turn, part: Part, span: tuple[int, int] | None) -> http.client.HTTPResponse:
        """The answer to a request for these bytes, at its first byte."""
        start, end = span or (0, part.size_bytes)
        answer = self._ask(turn, "GET", part, f"bytes={start}-{end - 1}" if span else "")
        if answer.status == 200 and span:
            raise NoRanges(f"{self.uri}: the server does not serve ranges")
        if answer.getheader("etag", part.version) != part.version:
            raise SourceError(f"{self.uri}: {part.name} changed while it was fetched")
        if answer.length is not None and answer.length != end - start:
            raise SourceError(f"{self._where(part)} came with {answer.length} bytes, {end - start} were announced")
        return answer

    def _pass_on(self, turn: Turn, answer: http.client.HTTPResponse, view: memoryview, sink: Sink) -> int:
        """What has come, at least a byte and at most `view`; 0 at the end."""
        try:
            count = _read_into(turn, answer, view)
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise TryAgain(f"{self.uri}: {told(error)}") from None
        if count:
            sink(view[:count])
        return count

    def _part(self, name: str, key: str) -> Part:
        part = Part(name, key, 0, "")
        answer = self._patiently(part, "HEAD")[1]
        length = answer.getheader("content-length", "")
        if not length.isdecimal():
            raise SourceError(f"{self._where(part)}: the server does not say how long it is")
        return Part(name, key, int(length), answer.getheader("etag") or answer.getheader("last-modified") or "")

    def _named_in_meta(self, key: str) -> list[str]:
        raw = self._patiently(Part(META_FILE, key, 0, ""), "GET")[0]
        if len(raw) > LARGEST_META_BYTES:
            raise SourceError(f"{self.uri}: {META_FILE} has more than {LARGEST_META_BYTES} bytes")
        try:
            return files_in_meta(raw)
        except ValueError as error:
            raise SourceError(f"{self.uri}: {META_FILE}: {error}") from error

    def _patiently(self, part: Part, verb: str) -> tuple[bytes, http.client.HTTPResponse]:
        """A short answer, its body up to the limit of a meta.json."""

        def ask() -> tuple[bytes, http.client.HTTPResponse]:
            turn = Turn()
            try:
                answer = self._ask(turn, verb, part)
                try:
                    body = answer.read(LARGEST_META_BYTES + 1)
                except (OSError, http.client.HTTPException) as error:
                    raise TryAgain(f"{self._where(part)}: {told(error)}") from None
                self._client.done(turn, answer)
                return body, answer
            finally:
                turn.end()

        return patiently(self._terms, ask, lambda failures, error: self.pause_s(part, failures, error))

    def _ask(self, turn: Turn, verb: str, part: Part, span: str = "") -> http.client.HTTPResponse:
        """An answer that brings what was asked for."""
        answer = self._client.ask(turn, verb, self._address(verb, part.key), span)
        where = self._where(part)
        if answer.status in (200, 206):
            return answer
        if answer.status in (404, 410):
            raise SourceError(f"{where}: there is no such file")
        said = f"{where}: status {answer.status}"
        if answer.status in BUSY:
            raise Busy(said, parse_retry_after(answer.getheader("retry-after", ""), datetime.now(UTC)))
        raise (TryAgain if answer.status in _PASSING else SourceError)(said)

    def _where(self, part: Part) -> str:
        return self.uri if part.name == SINGLE_FILE else f"{self.uri} ({part.name})"


def _read_into(turn: Turn, answer: http.client.HTTPResponse, view: memoryview) -> int:
    """Wait for the first byte, then take all that is there: few large pieces, and none that waits for the next."""
    if answer.chunked or answer.length is None:
        return answer.readinto(view)
    count: int = answer.fp.readinto1(view)
    while 0 < count < len(view) and turn.has_more():
        more = answer.fp.readinto1(view[count:])
        if not more:
            break
        count += more
    answer.length -= count
    return count
