"""What one scrape found: the values between the collector, the exposition and the digest."""

from __future__ import annotations

from dataclasses import dataclass

from exporter.gpus import GpuUsage
from exporter.triton_metrics import ModelReading
from fleet.digest import GpuDigest, NodeDigest, SceneCache


@dataclass(frozen=True, slots=True)
class SourceStatus:
    """How the last scrape of one source went; `problem` is empty where it worked."""

    source: str  # triton, scene_cache, gpus, dcgm, renderers
    target: str
    duration_s: float
    problem: str = ""


@dataclass(frozen=True, slots=True)
class PodModel:
    """One model of one pod, with its queue-to-compute ratio where there is one."""

    pod: str
    pool: str
    reading: ModelReading
    ratio: float | None


@dataclass(frozen=True, slots=True)
class NodeReading:
    """One scrape of the whole node. What a broken source would have said is absent here, held for a while in `digest`.

    `capacity_known` is False while the store has not said its capacity: then capacity and free bytes are no data.
    """

    sources: tuple[SourceStatus, ...]
    models: tuple[PodModel, ...]
    scene_cache: SceneCache | None
    capacity_known: bool
    gpus: tuple[GpuDigest, ...]
    usages: tuple[GpuUsage, ...]
    digest: NodeDigest
