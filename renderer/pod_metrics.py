"""The pod's metrics as custom metrics of Triton's Python backend, declared in fleet.metrics."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from functools import partial
from queue import SimpleQueue
from types import ModuleType
from typing import Any

from fleet import metrics
from fleet.metrics import Metric
from fleet.scene import SceneId
from renderer.scene_memory import Cause

_LATER_S = 0.01  # until the frame has been answered
_LOAD_SOURCES = ("remote", "disk", "packed")
_EVICTION_CAUSES: tuple[Cause, ...] = ("budget", "drop", "memory")


class PodMetrics:
    """Counts what a RendererPod does. Triton keeps a series once it is there, so an evicted scene's goes to 0.

    Each count is a message to the server that is waited for, so those of every frame are sent by a thread behind it.
    """

    def __init__(self, triton: ModuleType, budget_bytes: int) -> None:
        self._triton = triton
        self._families: dict[str, Any] = {}
        self._scene_bytes: dict[SceneId, Any] = {}
        self._resident_scenes = self._metric(metrics.RENDERER_RESIDENT_SCENES)
        self._resident_bytes = self._metric(metrics.RENDERER_RESIDENT_BYTES)
        self._metric(metrics.RENDERER_BUDGET_BYTES).set(budget_bytes)
        self._hits = self._metric(metrics.RENDERER_SCENE_REQUESTS, result="hit")
        self._misses = self._metric(metrics.RENDERER_SCENE_REQUESTS, result="miss")
        self._evictions = {cause: self._metric(metrics.RENDERER_EVICTIONS, cause=cause) for cause in _EVICTION_CAUSES}
        self._loads = {
            source: self._metric(metrics.RENDERER_SCENE_LOAD_SECONDS, source=source) for source in _LOAD_SOURCES
        }
        self._renders = self._metric(metrics.RENDERER_RENDER_SECONDS)
        self._fetched = self._metric(metrics.RENDERER_FETCHED_BYTES)
        self._peer_fetched = self._metric(metrics.RENDERER_PEER_BYTES)
        self._quarantined = self._metric(metrics.RENDERER_QUARANTINED)
        self._later: SimpleQueue[Callable[[], None]] = SimpleQueue()
        threading.Thread(target=self._count_later, name="metrics", daemon=True).start()

    def _count_later(self) -> None:
        while True:
            count = self._later.get()
            time.sleep(_LATER_S)
            count()
            while not self._later.empty():
                self._later.get()()

    def _metric(self, declared: Metric, **labels: str) -> Any:
        kinds = self._triton.MetricFamily
        family = self._families.get(declared.name)
        if family is None:
            kind = {"counter": kinds.COUNTER, "gauge": kinds.GAUGE, "histogram": kinds.HISTOGRAM}[declared.kind]
            family = kinds(name=declared.name, description=declared.help, kind=kind)
            self._families[declared.name] = family
        if declared.kind == "histogram":
            return family.Metric(labels=labels, buckets=list(declared.buckets))
        return family.Metric(labels=labels)

    def looked_up(self, hit: bool) -> None:
        self._later.put(partial((self._hits if hit else self._misses).increment, 1))

    def evicted(self, _scene: SceneId, cause: Cause) -> None:
        self._evictions[cause].increment(1)

    def changed(self, resident: dict[SceneId, int], draining_bytes: int) -> None:
        """Draining bytes are resident bytes too: they are taken until the last frame ends."""
        self._resident_scenes.set(len(resident))
        self._resident_bytes.set(sum(resident.values()) + draining_bytes)
        for scene in resident.keys() - self._scene_bytes.keys():
            self._scene_bytes[scene] = self._metric(metrics.RENDERER_SCENE_RESIDENT_BYTES, scene=scene)
        for scene, series in self._scene_bytes.items():
            series.set(resident.get(scene, 0))

    def loaded(self, source: str, seconds: float) -> None:
        self._loads[source].observe(seconds)

    def rendered(self, seconds: float) -> None:
        self._later.put(partial(self._renders.observe, seconds))

    def fetched(self, count_bytes: int) -> None:
        if count_bytes:
            self._fetched.increment(count_bytes)

    def peer_fetched(self, count_bytes: int) -> None:
        if count_bytes:
            self._peer_fetched.increment(count_bytes)

    def quarantined(self) -> None:
        self._quarantined.increment(1)
