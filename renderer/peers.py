"""Other nodes' scene agents as sources of objects: asked all at once, one that lied or died is left alone a while."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

from kube.tls import ClientTls
from renderer.credentials import BearerTokens
from renderer.download import Source
from renderer.scene_source import SourceError
from renderer.sources import peer_source
from renderer.web_source import WebSource

OBJECTS_PATH = "/v1/objects"
_DISTRUST_S = 60.0
PEER_RANGES = 3  # an agent is one process in Python: more at once do not make it faster


class Peers:
    """Agents by URL, in the order in which they are preferred."""

    def __init__(
        self,
        urls: Sequence[str],
        tokens: BearerTokens,
        on_fetched: Callable[[int], None],
        tls: ClientTls | None = None,
    ) -> None:
        self._urls = tuple(urls)
        self._tokens = tokens
        self._on_fetched = on_fetched
        self._tls = tls
        self._lock = threading.Lock()
        self._distrusted_until_s: dict[str, float] = {}
        self.faults: dict[str, str] = {}  # the last of each peer

    def find(self, digest: str) -> Sequence[WebSource]:
        """The peers that say that they have the object."""
        now_s = time.monotonic()
        with self._lock:
            asked = [url for url in self._urls if self._distrusted_until_s.get(url, 0.0) <= now_s]
        if not asked:
            return ()
        with ThreadPoolExecutor(len(asked)) as pool:
            found = pool.map(lambda url: self._at(f"{url}{OBJECTS_PATH}/{digest}"), asked)
            return [source for source in found if source is not None]

    def _at(self, address: str) -> WebSource | None:
        headers = self._tokens.headers()
        for uri in (address, address + "/"):  # one file, or a folder of them
            with suppress(SourceError):
                return peer_source(uri, headers, self._tls, PEER_RANGES)
        return None

    def failed(self, source: Source, reason: str) -> None:
        """Leave a peer alone for a minute."""
        url = source.uri.partition(OBJECTS_PATH)[0]
        with self._lock:
            self._distrusted_until_s[url] = time.monotonic() + _DISTRUST_S
            self.faults[url] = reason

    def fetched(self, count_bytes: int) -> None:
        """Count what came."""
        self._on_fetched(count_bytes)
