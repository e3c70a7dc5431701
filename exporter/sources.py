"""Where the exporter looks, and how it asks: over HTTP or from disk, always within a deadline."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

import httpx2

from kube.discovery import RendererPods

Reading = TypeVar("Reading")

MAX_BODY_BYTES = 8 * 1024 * 1024


class SourceError(Exception):
    """A source that did not give what it should; one sentence."""


@dataclass(frozen=True, slots=True)
class Sources:
    """The sources of one node. Without `gpus_file` NVML is asked, where it is there.

    With `beside` several exporters speak for a node: each has the digest of all its pods, without the store, which no
    other pod sees, and the metrics of its own pod, so that nothing is counted twice.
    """

    node: str
    triton: tuple[str, ...] = ()  # metrics addresses or URLs, each a pod of `pool`
    pool: str = "renderer"
    renderers_file: Path | None = None
    renderer_pods: RendererPods | None = None  # a pod watch, started
    scene_cache: Path | None = None
    beside: str = ""  # UID of the renderer pod whose own store this is: metrics are of it alone
    gpus_file: Path | None = None
    dcgm: str = ""
    window_s: float = 30.0
    deadline_s: float = 1.0


def metrics_url(address: str) -> str:
    """`http://host:port/metrics` of `host:port`, or of a URL with or without its path; raises ValueError."""
    try:
        url = httpx2.URL(address if "://" in address else f"http://{address}")
    except httpx2.InvalidURL as error:
        raise ValueError(f"metrics address {address!r}: {error}") from error
    if url.scheme not in ("http", "https") or not url.host:
        raise ValueError(f"metrics address {address!r} is not valid; example: http://127.0.0.1:8002/metrics")
    return str(url if url.path not in ("", "/") else url.copy_with(path="/metrics"))


def open_client() -> httpx2.AsyncClient:
    """An HTTP client for scrapes: straight to the address, a connection per scrape.

    A kept connection to a Triton that restarted would fail the next scrape for nothing; on one node they cost little.
    """
    limits = httpx2.Limits(max_connections=64, max_keepalive_connections=0)
    return httpx2.AsyncClient(trust_env=False, limits=limits, timeout=None)


async def fetch_text(client: httpx2.AsyncClient, url: str, deadline_s: float) -> str:
    """The body of `url`, within one deadline for all of it; raises SourceError."""
    try:
        async with asyncio.timeout(deadline_s):
            # Uncompressed: a small answer must not become a huge one here.
            async with client.stream("GET", url, headers={"accept-encoding": "identity"}) as response:
                return (await _body(response)).decode()
    except TimeoutError as error:
        raise SourceError(f"no whole answer within {deadline_s:g} s") from error
    except (httpx2.HTTPError, OSError) as error:
        raise SourceError(str(error) or type(error).__name__) from error
    except UnicodeDecodeError as error:
        raise SourceError("the answer is not UTF-8 text") from error


async def _body(response: httpx2.Response) -> bytes:
    if response.status_code != 200:
        raise SourceError(f"HTTP {response.status_code}, expected 200")
    if response.headers.get("content-encoding", "identity") != "identity":
        raise SourceError("the answer is compressed though that was not asked for")
    body = bytearray()
    async for chunk in response.aiter_raw():
        body += chunk
        if len(body) > MAX_BODY_BYTES:
            raise SourceError(f"the answer has more than {MAX_BODY_BYTES} bytes")
    return bytes(body)


class Blocking(Generic[Reading]):
    """Runs a blocking read in a thread, one at a time: a read that outlives its deadline is waited for again."""

    def __init__(self, read: Callable[[], Reading]) -> None:
        self._read = read
        self._pending: asyncio.Task[Reading] | None = None

    async def __call__(self, deadline_s: float) -> Reading:
        """Raises SourceError past the deadline, else what the read raises."""
        if self._pending is None:
            self._pending = asyncio.create_task(asyncio.to_thread(self._read))
        done, _ = await asyncio.wait({self._pending}, timeout=deadline_s)
        if not done:
            raise SourceError(f"not read within {deadline_s:g} s")
        task, self._pending = self._pending, None
        return task.result()
