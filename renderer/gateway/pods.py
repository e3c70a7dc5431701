"""Which pods there are, what they hold, and whether they answer.

The renderers file, or a pod watch, says which pods there are; each pod's Triton metrics say once a second which scenes
it holds; node digests say what lies on disk. A source that breaks keeps its last good answer.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Iterable
from dataclasses import dataclass
from typing import Any

import httpx2
import msgspec
import structlog

from fleet.digest import DIGEST_PATH, NodeDigest
from fleet.metrics import RENDERER_BUDGET_BYTES, RENDERER_SCENE_RESIDENT_BYTES
from fleet.renderers import Renderer
from renderer.client import RendererClient, RendererError
from renderer.gateway.pool import Pool
from renderer.gateway.routing import Pod
from renderer.gateway.sources import DigestUrls, RendererSource

SOURCE_POLL_S = 0.2
SCRAPE_S = 1.0
SCRAPE_LOADING_S = 0.1  # of a pod that loads a scene somebody waits for
SCRAPE_TIMEOUT_S = 2.0
DIGEST_POLL_S = 2.0
PROBE_S = 0.3
PROBE_TIMEOUT_S = 2.0
POD_STATES = ("ready", "draining", "unready")
_PROBE_SCENE = "gateway-probe"  # "no such scene" is as good an answer as any

_RESIDENT = re.compile(rf'^{RENDERER_SCENE_RESIDENT_BYTES.name}\{{[^}}]*scene="([^"]+)"[^}}]*\}} (\S+)', re.MULTILINE)
_BUDGET = re.compile(rf"^{RENDERER_BUDGET_BYTES.name}(?:\{{[^}}]*\}})? (\S+)", re.MULTILINE)

log = structlog.get_logger("gateway")


@dataclass(frozen=True, slots=True)
class PodScenes:
    """What a pod's metrics say of its memory."""

    resident: dict[str, int]  # bytes by scene
    budget_bytes: int  # 0 where the pod does not say


def read_pod_scenes(exposition: str) -> PodScenes:
    """The resident scenes out of a Triton exposition; a scene at 0 bytes was evicted."""
    sizes = {scene: int(float(value)) for scene, value in _RESIDENT.findall(exposition)}
    budget = _BUDGET.search(exposition)
    return PodScenes({s: size for s, size in sizes.items() if size > 0}, int(float(budget[1])) if budget else 0)


class PodDirectory:
    """Keeps the pools told of their pods; owns the clients of the pods and the tasks that watch them."""

    def __init__(
        self, source: RendererSource, digests: DigestUrls, make_pool: Callable[[str, Callable[[str], None]], Pool]
    ) -> None:
        """`digests` says now where the exporter of each node is asked for its digest."""
        self.pools: dict[str, Pool] = {}
        self.renderers: dict[str, Renderer] = {}
        self.clients: dict[str, RendererClient] = {}
        self._source = source
        self._digests = digests
        self._digest_watchers: dict[str, tuple[str, asyncio.Task[None]]] = {}  # by node, with its URL
        self._make_pool = make_pool
        self._suspects: set[str] = set()
        self._budgets: dict[str, int] = {}
        self._hurry: dict[str, asyncio.Event] = {}  # by pod, set where a load began
        self._watchers: dict[str, asyncio.Task[None]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._http: httpx2.AsyncClient | None = None

    def pool(self, name: str) -> Pool:
        """The pool of this name, made if it is new."""
        if name not in self.pools:
            self.pools[name] = self._make_pool(name, self.suspect)
            self.pools[name].load_began = self._look_soon
        return self.pools[name]

    def state(self, uid: str) -> str:
        """One of POD_STATES."""
        pod = self.renderers[uid]
        if pod.draining:
            return "draining"
        return "ready" if pod.ready and uid not in self._suspects else "unready"

    def counts(self, pool: str) -> Counter[str]:
        """Pods of a pool by state."""
        return Counter(self.state(uid) for uid, pod in self.renderers.items() if pod.pool == pool)

    def suspect(self, uid: str) -> None:
        """Give a pod no requests until it answers again."""
        if uid in self.renderers and uid not in self._suspects:
            log.warning("pod does not answer", pod=uid)
            self._suspects.add(uid)
            self._tell(self.renderers[uid].pool)
            self._start(self._probe(uid))

    async def start(self) -> None:
        """Read the source once, then watch."""
        self._http = httpx2.AsyncClient(timeout=SCRAPE_TIMEOUT_S, trust_env=False)
        self._look()
        self._start(self._watch_source())

    async def close(self) -> None:
        """Stop watching, refuse who waits, close every client."""
        for pool in self.pools.values():
            await pool.close()
        tasks = [*self._tasks, *self._watchers.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for client in self.clients.values():
            await client.close()
        if self._http is not None:
            await self._http.aclose()

    # The source.

    async def _watch_source(self) -> None:
        while True:
            await asyncio.sleep(SOURCE_POLL_S)
            self._look()

    def _look(self) -> None:
        rows = self._source.changed()
        if rows is not None:
            self._apply(rows)
        urls = self._digests()
        for node, (url, task) in list(self._digest_watchers.items()):
            if urls.get(node) != url:
                task.cancel()
                del self._digest_watchers[node]
        for node in urls.keys() - self._digest_watchers.keys():
            self._digest_watchers[node] = (urls[node], self._start(self._watch_digest(node, urls[node])))

    def _apply(self, renderers: Iterable[Renderer]) -> None:
        before = self.renderers
        self.renderers = {pod.uid: pod for pod in renderers}
        for uid, pod in before.items():
            now = self.renderers.get(uid)
            if now is None or now.grpc_address != pod.grpc_address:
                self._part(uid)
        for uid, pod in self.renderers.items():
            if uid not in self.clients:
                self.clients[uid] = RendererClient(pod.grpc_address)
                self._watchers[uid] = asyncio.ensure_future(self._watch_pod(uid, pod.metrics_address))
        for name in {pod.pool for pod in (*before.values(), *self.renderers.values())}:
            self._tell(name)

    def _part(self, uid: str) -> None:
        """Let go of a pod; a frame that is under way there may still end."""
        self._suspects.discard(uid)
        self._budgets.pop(uid, None)
        self._hurry.pop(uid, None)
        self._watchers.pop(uid).cancel()
        self._start(self._close_later(self.clients.pop(uid)))

    async def _close_later(self, client: RendererClient) -> None:
        try:
            await asyncio.sleep(30.0)
        finally:
            await client.close()

    def _tell(self, name: str) -> None:
        """Give a pool its pods as they are now."""
        pool = self.pool(name)
        members = [pod for pod in self.renderers.values() if pod.pool == name]
        pool.clients = {pod.uid: self.clients[pod.uid] for pod in members}
        pool.router.set_pods(
            Pod(pod.uid, pod.node, self.state(pod.uid) == "ready", pod.budget_bytes or self._budgets.get(pod.uid, 0))
            for pod in members
        )
        pool.pump()

    # One pod.

    async def _watch_pod(self, uid: str, address: str) -> None:
        """Learn what the pod holds, once a second; a pod that does not answer keeps what it had."""
        url = f"{address if '://' in address else 'http://' + address}/metrics"
        while True:
            asked_s = time.monotonic()
            text = await self._get(url)
            pod = self.renderers.get(uid)
            if text is not None and pod is not None:
                scenes = read_pod_scenes(text)
                if scenes.budget_bytes != self._budgets.get(uid, 0):
                    self._budgets[uid] = scenes.budget_bytes
                    self._tell(pod.pool)
                self.pool(pod.pool).saw_resident(uid, scenes.resident, asked_s)
            await self._pause(uid)

    async def _pause(self, uid: str) -> None:
        """Until the next scrape of a pod is due: a load that somebody waits for makes it soon."""
        pod = self.renderers.get(uid)
        if pod is not None and self.pool(pod.pool).is_loading(uid):
            await asyncio.sleep(SCRAPE_LOADING_S)
            return
        hurry = self._hurry[uid] = asyncio.Event()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(hurry.wait(), SCRAPE_S)

    def _look_soon(self, uid: str) -> None:
        if uid in self._hurry:
            self._hurry[uid].set()

    async def _probe(self, uid: str) -> None:
        """Ask the model itself until it answers: Triton says ready even when the model's process is dead."""
        while uid in self._suspects:
            await asyncio.sleep(PROBE_S)
            client = self.clients.get(uid)
            if client is None:
                return
            try:
                await client.warm(_PROBE_SCENE, PROBE_TIMEOUT_S)
            except RendererError as error:
                if error.kind in ("unavailable", "deadline"):
                    continue
            self._suspects.discard(uid)
            log.info("pod answers again", pod=uid)
            if uid in self.renderers:
                self._tell(self.renderers[uid].pool)

    # Nodes.

    async def _watch_digest(self, node: str, url: str) -> None:
        while True:
            text = await self._get(url.rstrip("/") + DIGEST_PATH)
            if text is not None:
                try:
                    digest = msgspec.json.decode(text, type=NodeDigest)
                except msgspec.MsgspecError as error:
                    log.warning("node digest not read", node=node, url=url, error=str(error))
                else:
                    for pool in self.pools.values():
                        pool.router.set_on_disk(node, (scene.id for scene in digest.scene_cache.scenes))
            await asyncio.sleep(DIGEST_POLL_S)

    async def _get(self, url: str) -> str | None:
        assert self._http is not None
        try:
            answer = await self._http.get(url)
        except httpx2.HTTPError:
            return None
        return answer.text if answer.status_code == 200 else None

    def _start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task
