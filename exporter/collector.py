"""Reads every source of the node when the exporter is scraped, each with its own deadline, none in another's way."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Sequence
from typing import Any, TypeVar

import structlog

from exporter.files import WatchedFile
from exporter.gpu_health import Faults, read_faults, with_faults
from exporter.gpus import GpusFile, GpuUsage, check_gpus, merge, read_dcgm, with_pods
from exporter.inventory import EMPTY_SCENE_CACHE, Inventory, scene_cache
from exporter.nvml import NvmlReading, open_nvml
from exporter.reading import NodeReading, PodModel, SourceStatus
from exporter.sources import Blocking, Sources, fetch_text, metrics_url, open_client
from exporter.store_reader import StoreReader, StoreReading
from exporter.triton_metrics import RatioWindow, TritonReading, read_triton
from fleet.digest import GpuDigest, PodDigest, SceneCache
from fleet.renderers import Renderer, RenderersFile
from fleet.scene import StoreRecord

Reading = TypeVar("Reading")

# The extender cannot see `source_up`, and a pod that missed one deadline did not lose its scenes: the digest keeps a
# source's last good word for three of the extender's asks.
HOLD_S = 15.0
_UNKNOWN_STORE = StoreRecord(0, 0.0, 0.0)


def check_renderers(file: RenderersFile) -> None:
    """Raise ValueError for a renderers file of another version, or with a pod twice."""
    if file.version != 1:
        raise ValueError(f"version {file.version}, this exporter reads version 1")
    uids = [renderer.uid for renderer in file.renderers]
    if len(set(uids)) < len(uids):
        raise ValueError(f"a uid stands twice in {sorted(uids)}")


class NodeCollector:
    """Everything that the exporter remembers between two scrapes; lives in one event loop."""

    def __init__(self, sources: Sources, started_at_s: float) -> None:
        self.sources = sources
        self.inventory = Inventory(sources.node, started_at_s)
        self._client = open_client()
        self._log: Any = structlog.get_logger("exporter")
        self._windows: dict[tuple[str, str], RatioWindow] = {}
        self._held_pods: dict[str, tuple[float, PodDigest]] = {}
        self._held_cache: tuple[float, SceneCache] = (float("-inf"), EMPTY_SCENE_CACHE)
        self._problems: dict[tuple[str, str], str] = {}
        self._elsewhere: list[str] = []
        self._in_flight: asyncio.Task[NodeReading] | None = None
        self._renderers = (
            WatchedFile(sources.renderers_file, RenderersFile, check_renderers) if sources.renderers_file else None
        )
        self._gpus_file = WatchedFile(sources.gpus_file, GpusFile, check_gpus) if sources.gpus_file else None
        nvml = None if sources.gpus_file else open_nvml()
        self._nvml = Blocking(nvml.read) if nvml else None
        self._nvml_last = NvmlReading()
        self._faults: dict[str, Faults] = {}  # by GPU; DCGM's last word stays, as silence heals no GPU
        self._store = Blocking(StoreReader(sources.scene_cache).read) if sources.scene_cache else None

    async def collect(self) -> NodeReading:
        """Scrape the node now; callers at the same moment share one scrape."""
        if self._in_flight is None:
            self._in_flight = asyncio.create_task(self._collect())
            self._in_flight.add_done_callback(self._landed)
        return await asyncio.shield(self._in_flight)

    def _landed(self, _task: asyncio.Task[NodeReading]) -> None:
        self._in_flight = None

    async def close(self) -> None:
        """Drop the connections."""
        await self._client.aclose()

    async def _collect(self) -> NodeReading:
        statuses: list[SourceStatus] = []
        pods = self._pods(statuses)
        tritons, store, gpus, dcgm = await asyncio.gather(
            asyncio.gather(*(self._read_triton(pod, statuses) for pod in pods)),
            self._read_store(statuses),
            self._read_gpus(statuses),
            self._read_dcgm(statuses),
        )
        self._tell(statuses)
        now_s = time.monotonic()
        by_pod = list(zip(pods, tritons, strict=True))
        models = self._models(by_pod, now_s)
        cache = self._cache(store, now_s)
        alone = self.sources.beside
        owned = with_pods(with_faults(gpus, self._faults), {pod.slice: pod.uid for pod in pods if pod.slice})
        seen = [triton.gpus for pod, triton in by_pod if triton and (not alone or pod.uid == alone)]
        usages = merge(seen if alone else [dcgm, *seen, self._nvml_last.usages])
        of_node = EMPTY_SCENE_CACHE if alone else self._held_cache[1]
        digest = self.inventory.update(now_s, of_node, owned, self._pod_digests(by_pod, now_s))
        return NodeReading(
            sources=tuple(sorted(statuses, key=lambda status: (status.source, status.target))),
            models=tuple(model for model in models if not alone or model.pod == alone),
            scene_cache=cache,
            capacity_known=store is not None and store.store is not None,
            gpus=() if alone else owned,
            usages=tuple(usages),
            digest=digest,
        )

    async def _attempt(
        self, source: str, target: str, statuses: list[SourceStatus], reading: Awaitable[Reading]
    ) -> Reading | None:
        """What the source says, or None; how it went is appended to `statuses`."""
        start_s = time.perf_counter()
        result, problem = None, ""
        try:
            result = await reading
            problem = getattr(result, "problem", "")
        except Exception as error:  # whatever one source does, the others are served
            problem = str(error) or type(error).__name__
        statuses.append(SourceStatus(source, target, time.perf_counter() - start_s, problem))
        return result

    def _pods(self, statuses: list[SourceStatus]) -> list[Renderer]:
        """The Triton servers of this node; one address is one pod, however often it is named."""
        pods = {
            _host(address): Renderer(_host(address), self.sources.pool, self.sources.node, "", "", address)
            for address in self.sources.triton
        }
        if self._renderers is not None:
            start_s = time.perf_counter()
            file = self._renderers.read() or RenderersFile()
            duration_s = time.perf_counter() - start_s
            statuses.append(SourceStatus("renderers", str(self._renderers.path), duration_s, self._renderers.problem))
            pods |= {_host(pod.metrics_address): pod for pod in self._here(file.renderers)}
        if self.sources.renderer_pods is not None:
            watched = self.sources.renderer_pods
            statuses.append(SourceStatus("renderers", "pods of the API server", 0.0, watched.problem))
            pods |= {_host(pod.metrics_address): pod for pod in self._here(watched.rows())}
        return list(pods.values())

    def _here(self, rows: Sequence[Renderer]) -> list[Renderer]:
        """Its pods on this node; none at all among those of other nodes may be a node misnamed, so it is told once."""
        here = [pod for pod in rows if pod.node == self.sources.node and pod.metrics_address]
        elsewhere = sorted({pod.node for pod in rows}) if not here else []
        if elsewhere and elsewhere != self._elsewhere:
            self._log.warning("no renderer on this node", node=self.sources.node, nodes_in_the_file=elsewhere)
        self._elsewhere = elsewhere
        return here

    async def _read_triton(self, pod: Renderer, statuses: list[SourceStatus]) -> TritonReading | None:
        async def reading() -> TritonReading:
            url = metrics_url(pod.metrics_address)
            return read_triton(await fetch_text(self._client, url, self.sources.deadline_s))

        return await self._attempt("triton", _host(pod.metrics_address), statuses, reading())

    async def _read_store(self, statuses: list[SourceStatus]) -> StoreReading | None:
        if self._store is None:
            return None
        reading = self._store(self.sources.deadline_s)
        return await self._attempt("scene_cache", str(self.sources.scene_cache), statuses, reading)

    async def _read_gpus(self, statuses: list[SourceStatus]) -> tuple[GpuDigest, ...]:
        if self._gpus_file is not None:
            start_s = time.perf_counter()
            file = self._gpus_file.read()
            duration_s = time.perf_counter() - start_s
            statuses.append(SourceStatus("gpus", str(self._gpus_file.path), duration_s, self._gpus_file.problem))
            return file.gpus if file else ()
        if self._nvml is not None:
            read = await self._attempt("gpus", "nvml", statuses, self._nvml(self.sources.deadline_s))
            # A driver that hangs leaves the slices where they were, yet says nothing of how busy they are.
            self._nvml_last = read or NvmlReading(self._nvml_last.gpus, [], self._nvml_last.starts)
            return tuple(self._nvml_last.gpus)
        return ()

    async def _read_dcgm(self, statuses: list[SourceStatus]) -> list[GpuUsage]:
        if not self.sources.dcgm:
            return []

        async def reading() -> list[GpuUsage]:
            text = await fetch_text(self._client, metrics_url(self.sources.dcgm), self.sources.deadline_s)
            self._tell_faults(read_faults(text, self._nvml_last.starts))
            return read_dcgm(text, self._nvml_last.starts)

        return await self._attempt("dcgm", _host(self.sources.dcgm), statuses, reading()) or []

    def _models(self, by_pod: list[tuple[Renderer, TritonReading | None]], now_s: float) -> tuple[PodModel, ...]:
        entries = []
        for pod, triton in by_pod:
            for model in triton.models if triton else ():
                ratio = None
                if model.queue_s is not None and model.compute_s is not None:
                    key = (pod.uid, model.model)
                    window = self._windows.setdefault(key, RatioWindow(self.sources.window_s))
                    window.observe(now_s, model.queue_s, model.compute_s)
                    # Never without pending: the counters lag behind a server that is stuck, and read as calm.
                    ratio = window.ratio(now_s) if model.pending is not None else None
                entries.append(PodModel(pod.uid, pod.pool, model, ratio))
        known = {pod.uid for pod, _ in by_pod}
        self._windows = {key: window for key, window in self._windows.items() if key[0] in known}
        return tuple(entries)

    def _cache(self, store: StoreReading | None, now_s: float) -> SceneCache | None:
        """The scene cache as just read, None where it could not be; keeps it for the digest."""
        if store is None:
            if now_s - self._held_cache[0] > HOLD_S:
                self._held_cache = (now_s - HOLD_S, EMPTY_SCENE_CACHE)
            return None
        record = store.store or _UNKNOWN_STORE
        cache = scene_cache(record, store.scenes, store.fetches, store.disk_free_bytes, time.time())
        self._held_cache = (now_s, cache)
        return cache

    def _pod_digests(self, by_pod: list[tuple[Renderer, TritonReading | None]], now_s: float) -> tuple[PodDigest, ...]:
        for pod, triton in by_pod:
            if triton is not None:
                budget_bytes = triton.budget_bytes if triton.budget_bytes is not None else pod.budget_bytes
                self._held_pods[pod.uid] = now_s, PodDigest(pod.uid, pod.pool, budget_bytes, triton.resident)
        held = {}
        for pod, _ in by_pod:
            seen_s, digest = self._held_pods.get(pod.uid, (float("-inf"), None))
            known = digest is not None and now_s - seen_s <= HOLD_S
            held[pod.uid] = (
                (seen_s, digest) if known and digest else (seen_s, PodDigest(pod.uid, pod.pool, pod.budget_bytes))
            )
        self._held_pods = held
        return tuple(held[uid][1] for uid in sorted(held))

    def _tell_faults(self, found: dict[str, Faults]) -> None:
        """Keep what DCGM says of each GPU that it speaks of; log what is new."""
        for uuid, faults in found.items():
            before = self._faults.get(uuid, {})
            if faults and faults != before:
                self._log.warning("GPU unhealthy", gpu=uuid, reason=", ".join(sorted(set(faults.values()))))
            elif before and not faults:
                self._log.info("GPU healthy again", gpu=uuid)
        self._faults |= found

    def _tell(self, statuses: list[SourceStatus]) -> None:
        """Log a source when it breaks and when it is back, not at every scrape between."""
        now = {(status.source, status.target): status.problem for status in statuses}
        for (source, target), problem in now.items():
            before = self._problems.get((source, target), "")
            if problem and not before:
                self._log.warning("source down", source=source, target=target, problem=problem)
            elif before and not problem:
                self._log.info("source up again", source=source, target=target)
        self._problems = now


def _host(address: str) -> str:
    """`host:port` out of an address or a URL."""
    return address.split("://", 1)[-1].split("/", 1)[0]
