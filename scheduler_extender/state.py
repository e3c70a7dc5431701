"""Node digests by HTTP: every node is asked every few seconds with its last ETag, and each answer changes the cluster
in one step. A node that does not answer keeps its last digest, which ages; one where nothing moves is asked half as
often."""

from __future__ import annotations

import asyncio
import math
import zlib
from collections.abc import Callable, Mapping

import msgspec
import structlog

from fleet.digest import DIGEST_VERSION, NodeDigest
from scheduler_extender.cluster import Cluster
from scheduler_extender.digest_client import DigestClient, Reply

MOST_DIGEST_BYTES = 64 << 20
AT_ONCE = 64  # polls in flight
WAVE_S = 0.02  # polls start at its multiples
QUIET_POLLS = 12  # without a change, a minute by default, and a node is asked half as often: its digest stays fresh

_decode = msgspec.json.Decoder(NodeDigest).decode
log = structlog.get_logger()


class DigestError(ValueError):
    """A digest that cannot be used; the text says which field and why."""


def read_digest(body: bytes) -> NodeDigest:
    """Decode and check a node digest; raises DigestError."""
    try:
        digest = _decode(body)
    except (msgspec.MsgspecError, RecursionError, UnicodeError) as error:
        raise DigestError(str(error)) from error
    if digest.version != DIGEST_VERSION:
        raise DigestError(f"version is {digest.version}: this extender reads version {DIGEST_VERSION}")
    cache = digest.scene_cache
    counts = {"capacity_bytes": cache.capacity_bytes, "free_bytes": cache.free_bytes}
    counts |= {f"scenes[{item.id}].bytes": item.bytes for item in cache.scenes}
    counts |= {f"fetching[{item.id}].total_bytes": item.total_bytes for item in cache.fetching}
    for name, value in counts.items():
        if value < 0:
            raise DigestError(f"scene_cache.{name} is {value}: expected 0 or more")
    return digest


class DigestPoller:
    """Asks each of `urls` (by node name) every `poll_s`, quiet nodes every other time; `clock` stamps what was seen."""

    def __init__(
        self, cluster: Cluster, urls: Mapping[str, str], poll_s: float, timeout_s: float, clock: Callable[[], float]
    ) -> None:
        self.tried: set[str] = set()  # nodes that were asked at least once, whatever came of it
        self.urls = dict(urls)
        self._cluster = cluster
        self._poll_s = poll_s
        self._timeout_s = timeout_s
        self._clock = clock
        self._client = DigestClient()
        self._etags: dict[str, str] = {}
        self._unchanged: dict[str, int] = {}  # polls since a digest moved or could not be had
        self._failing: set[str] = set()
        self._misnamed: set[str] = set()  # warned of once
        self._polls: dict[str, asyncio.Task[None]] = {}
        self._start: Callable[[str, float], None] | None = None  # set while polls run

    async def run(self) -> None:
        """Poll until cancelled."""
        turn = asyncio.Semaphore(AT_ONCE)
        try:
            await self._poll_all(turn)
        finally:
            self._client.close()

    async def _poll_all(self, turn: asyncio.Semaphore) -> None:
        async with asyncio.TaskGroup() as group:

            def start(name: str, offset_s: float) -> None:
                self._polls[name] = group.create_task(self._poll_one(turn, name, offset_s))

            self._start = start
            for position, name in enumerate(self.urls):
                start(name, self._poll_s * position / len(self.urls))
            group.create_task(self._expire())

    def set_url(self, name: str, url: str) -> None:
        """Where a node's digest is from now on; empty: nowhere, and it is not asked any more."""
        if self.urls.get(name, "") == url:
            return
        self._etags.pop(name, None)
        self._unchanged.pop(name, None)
        self._client.forget(self.urls.get(name, ""))
        if url:
            self.urls[name] = url
            if self._start is not None and name not in self._polls:
                # Spread over the interval by name, so that a thousand exporters found at once stay apart.
                self._start(name, self._poll_s * (zlib.crc32(name.encode()) % 1000) / 1000)
            return
        del self.urls[name]
        self.tried.discard(name)
        self._failing.discard(name)
        poll = self._polls.pop(name, None)
        if poll is not None:
            poll.cancel()

    async def _expire(self) -> None:
        while True:
            await asyncio.sleep(1.0)
            self._cluster.expire(self._clock())

    async def _poll_one(self, turn: asyncio.Semaphore, name: str, offset_s: float) -> None:
        clock_s = asyncio.get_running_loop().time
        while True:
            async with turn:
                await self._ask(name)
            # The first round asks at once, later ones are spread over the interval.
            pause_s, offset_s = offset_s or self._pause_s(name), 0.0
            # Together with others: what runs several times in a row costs half of what runs now and then.
            wave = math.ceil((clock_s() + pause_s) / WAVE_S)
            await asyncio.sleep(wave * WAVE_S - clock_s())

    def _pause_s(self, name: str) -> float:
        return self._poll_s * (2 if self._unchanged.get(name, 0) >= QUIET_POLLS else 1)

    async def _ask(self, name: str) -> None:
        headers = {"If-None-Match": self._etags[name]} if name in self._etags else {}
        try:
            async with asyncio.timeout(self._timeout_s):
                reply = await self._client.get(self.urls[name], headers, MOST_DIGEST_BYTES)
            if reply.status == 304 and headers:
                self._cluster.confirm_digest(name, self._clock())
                self._unchanged[name] = self._unchanged.get(name, 0) + 1
            else:
                self._unchanged[name] = 0
                self._apply(name, reply)
            if name in self._failing:
                self._failing.discard(name)
                log.info("node digest is back", node=name)
        except Exception as error:  # one node's trouble, whatever it is, must not stop the polls of the others
            self._unchanged[name] = 0
            if name not in self._failing:
                self._failing.add(name)
                log.warning(
                    "no node digest", node=name, url=self.urls.get(name), error=str(error) or type(error).__name__
                )
        finally:
            if name in self.urls:
                self.tried.add(name)

    def _apply(self, name: str, reply: Reply) -> None:
        if reply.status != 200:
            raise DigestError(f"HTTP status {reply.status}: expected 200")
        digest = read_digest(reply.body)
        self._cluster.apply_digest(name, digest, self._clock())
        tag = reply.headers.get("etag", "")
        self._etags[name] = tag if tag.isprintable() else ""
        if digest.node != name and name not in self._misnamed:
            self._misnamed.add(name)
            log.warning("digest names another node", node=name, digest_node=digest.node)
