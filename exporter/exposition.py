"""A reading of the node as Prometheus text or OpenMetrics.

New families are built for each scrape, so nothing that vanished lingers. The scenes of the store are the exception in
form, not in meaning: their lines are kept as bytes while the store holds the same scenes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.process_collector import ProcessCollector

from exporter.gpus import count_slices, largest_placeable_slices
from exporter.inventory import same_scenes
from exporter.reading import NodeReading
from fleet import metrics
from fleet.digest import CachedScene

_END_OF_OPENMETRICS = b"# EOF\n"
Series = Iterable[tuple[tuple[str, ...], float | None]]


def _family(metric: metrics.Metric, series: Series) -> Iterator[Metric]:
    """The family with every series that has a value; nothing at all where none has."""
    known = [(labels, value) for labels, value in series if value is not None]
    if not known:
        return
    family = (CounterMetricFamily if metric.kind == "counter" else GaugeMetricFamily)(
        metric.name, metric.help, labels=metric.labels
    )
    for labels, value in known:
        family.add_metric(labels, value)
    yield family


def families(reading: NodeReading) -> Iterator[Metric]:
    """Every family of a reading but the scenes of the store."""
    sources = reading.sources
    yield from _family(metrics.SOURCE_UP, (((s.source, s.target), float(not s.problem)) for s in sources))
    yield from _family(metrics.SOURCE_SECONDS, (((s.source, s.target), s.duration_s) for s in sources))
    yield from _triton(reading)
    yield from _gpus(reading)
    if reading.scene_cache is not None:
        cache = reading.scene_cache
        if reading.capacity_known:
            yield from _family(metrics.SCENE_CACHE_CAPACITY, [((), cache.capacity_bytes)])
            yield from _family(metrics.SCENE_CACHE_FREE, [((), cache.free_bytes)])
        done = {item.id: float(item.done_bytes) for item in cache.fetching}  # one id may be fetched in two versions
        yield from _family(metrics.SCENE_CACHE_FETCHING_BYTES, (((id,), value) for id, value in done.items()))
    yield from _family(metrics.DIGEST_GENERATION, [((), reading.digest.generation)])


def _triton(reading: NodeReading) -> Iterator[Metric]:
    rows = [((entry.pod, entry.pool, entry.reading.model), entry) for entry in reading.models]
    yield from _family(metrics.TRITON_QUEUE_SECONDS, ((labels, entry.reading.queue_s) for labels, entry in rows))
    yield from _family(metrics.TRITON_COMPUTE_SECONDS, ((labels, entry.reading.compute_s) for labels, entry in rows))
    yield from _family(metrics.TRITON_PENDING, ((labels, entry.reading.pending) for labels, entry in rows))
    yield from _family(
        metrics.TRITON_REQUESTS,
        (((*labels, outcome), n) for labels, entry in rows for outcome, n in sorted(entry.reading.requests.items())),
    )
    yield from _family(metrics.TRITON_QUEUE_TO_COMPUTE, ((labels, entry.ratio) for labels, entry in rows))


def _gpus(reading: NodeReading) -> Iterator[Metric]:
    rows = [((usage.gpu, usage.slice), usage) for usage in reading.usages]
    yield from _family(metrics.GPU_DUTY, ((labels, usage.duty_ratio) for labels, usage in rows))
    yield from _family(metrics.GPU_MEMORY_USED, ((labels, usage.used_bytes) for labels, usage in rows))
    yield from _family(metrics.GPU_MEMORY_TOTAL, ((labels, usage.total_bytes) for labels, usage in rows))
    yield from _family(metrics.MIG_SLICES, sorted(count_slices(reading.gpus).items()))
    yield from _family(
        metrics.MIG_LARGEST_PLACEABLE, (((gpu.uuid,), largest_placeable_slices(gpu)) for gpu in reading.gpus)
    )


class SceneText:
    """The lines of `splatfleet_scene_cache_scene_bytes`, encoded once per set of scenes.

    Text and OpenMetrics agree on every byte of a gauge. Scene ids need no escaping: they were parsed.
    """

    def __init__(self) -> None:
        self._scenes: tuple[CachedScene, ...] = ()
        self._text = b""

    def of(self, scenes: tuple[CachedScene, ...]) -> bytes:
        if not same_scenes(scenes, self._scenes):
            metric = metrics.SCENE_CACHE_SCENE_BYTES
            lines = [f'{metric.name}{{scene="{scene.id}"}} {scene.bytes}\n' for scene in scenes]
            head = f"# HELP {metric.name} {metric.help}\n# TYPE {metric.name} {metric.kind}\n"
            self._text = (head + "".join(lines)).encode() if scenes else b""
        self._scenes = scenes
        return self._text


@dataclass(slots=True)
class _Families:
    """What prometheus_client's encoders take: something that can be collected."""

    reading: NodeReading
    process: ProcessCollector

    def collect(self) -> Iterator[Metric]:
        yield from families(self.reading)
        yield from self.process.collect()


class Exposition:
    """Renders readings; keeps the scene lines from one to the next."""

    def __init__(self) -> None:
        self._scene_text = SceneText()
        self._process = ProcessCollector(registry=CollectorRegistry())

    def render(self, reading: NodeReading, accept: str) -> tuple[bytes, str]:
        """The body for an Accept header, and its content type."""
        encode, content_type = choose_encoder(accept)
        body = encode(_Families(reading, self._process))
        scenes = self._scene_text.of(reading.scene_cache.scenes) if reading.scene_cache is not None else b""
        if body.endswith(_END_OF_OPENMETRICS):
            return body[: -len(_END_OF_OPENMETRICS)] + scenes + _END_OF_OPENMETRICS, content_type
        return body + scenes, content_type
