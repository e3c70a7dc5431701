"""Triton's samples in our units, and the queue-to-compute ratio over a window.

Triton's own names live here, where they are read (server `docs/user_guide/metrics.md`). Several series of one model
(per version, per GPU, per tag) are summed, because a ratio of parts that do not match is no ratio.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable
from dataclasses import dataclass, field

from exporter.gpus import GpuUsage
from exporter.prometheus_text import ExpositionError, Sample, parse
from fleet import metrics
from fleet.digest import ResidentScene

_US_PER_S = 1e6
_SUCCESS = "nv_inference_request_success"
_FAILURE = "nv_inference_request_failure"
_QUEUE_US = "nv_inference_queue_duration_us"
_COMPUTE_US = frozenset(f"nv_inference_compute_{part}_duration_us" for part in ("input", "infer", "output"))
_DURATIONS_US = _COMPUTE_US | {_QUEUE_US}
_PENDING = "nv_inference_pending_request_count"
_GPU_DUTY = "nv_gpu_utilization"
_GPU_USED = "nv_gpu_memory_used_bytes"
_GPU_TOTAL = "nv_gpu_memory_total_bytes"
_RESIDENT = metrics.RENDERER_SCENE_RESIDENT_BYTES.name
_BUDGET = metrics.RENDERER_BUDGET_BYTES.name
# A Triton without a model has at least one of these, so a text without any of WANTED is not Triton's.
_ALWAYS = frozenset({"nv_pinned_memory_pool_total_bytes", "nv_cpu_memory_total_bytes"})
WANTED = _DURATIONS_US | _ALWAYS | {
    _SUCCESS, _FAILURE, _PENDING, _GPU_DUTY, _GPU_USED, _GPU_TOTAL, _RESIDENT, _BUDGET,
}  # fmt: skip
OUTCOMES = ("success", "backend", "canceled", "rejected", "other")


@dataclass(slots=True)
class ModelReading:
    """One model of one server. Seconds are None where the server keeps no latency counters."""

    model: str
    queue_s: float | None = None
    compute_s: float | None = None
    pending: float | None = None
    requests: dict[str, float] = field(default_factory=dict)  # by outcome, every one of OUTCOMES once loaded


@dataclass(frozen=True, slots=True)
class TritonReading:
    """One scrape of one server; `budget_bytes` is None where the pod does not publish it."""

    models: tuple[ModelReading, ...]
    resident: tuple[ResidentScene, ...] = ()
    budget_bytes: int | None = None
    gpus: tuple[GpuUsage, ...] = ()


def read_triton(text: str) -> TritonReading:
    """Read one server's exposition; raises ExpositionError where the text is not Triton's."""
    models: dict[str, ModelReading] = {}
    resident: dict[str, int] = {}
    gpu_samples: list[Sample] = []
    budget_bytes: int | None = None
    durations: Counter[tuple[str, str]] = Counter()
    samples = 0
    for sample in parse(text, WANTED):
        samples += 1
        if sample.name.startswith("nv_inference_"):
            name = sample.labels.get("model", "")
            _add(models.setdefault(name, ModelReading(name)), sample)
            durations[name, sample.name] += sample.name in _DURATIONS_US
        elif sample.name.startswith("nv_gpu_"):
            gpu_samples.append(sample)
        elif sample.name == _RESIDENT:
            resident[sample.labels.get("scene", "")] = int(sample.value)
        elif sample.name == _BUDGET:
            budget_bytes = int(sample.value)
    if not samples:
        raise ExpositionError("no series of Triton in the answer; is this its metrics port (8002 by default)?")
    for model in models.values():
        # A sum that lacks a part (NaN counts as no data) would look like a restart, and its ratio like a calm.
        if len({durations[model.model, series] for series in _DURATIONS_US}) > 1:
            model.queue_s = model.compute_s = None
    # Custom metrics outlive their model and keep the last value: without a loaded model nothing is resident.
    loaded = any("success" in model.requests for model in models.values())
    return TritonReading(
        models=tuple(models[name] for name in sorted(models)),
        resident=tuple(ResidentScene(id, size) for id, size in sorted(resident.items()) if size > 0) if loaded else (),
        budget_bytes=budget_bytes,
        gpus=_gpus(gpu_samples),
    )


def _add(model: ModelReading, sample: Sample) -> None:
    if sample.name == _QUEUE_US:
        model.queue_s = (model.queue_s or 0.0) + sample.value / _US_PER_S
    elif sample.name in _COMPUTE_US:
        model.compute_s = (model.compute_s or 0.0) + sample.value / _US_PER_S
    elif sample.name == _PENDING:
        model.pending = (model.pending or 0.0) + sample.value
    elif sample.name == _SUCCESS:
        model.requests["success"] = model.requests.get("success", 0.0) + sample.value
    elif sample.name == _FAILURE:
        reason = sample.labels.get("reason", "").lower()
        outcome = reason if reason in OUTCOMES else "other"
        model.requests[outcome] = model.requests.get(outcome, 0.0) + sample.value


def _gpus(samples: Iterable[Sample]) -> tuple[GpuUsage, ...]:
    values: dict[str, dict[str, float]] = {}
    for sample in samples:
        values.setdefault(sample.labels.get("gpu_uuid", ""), {})[sample.name] = sample.value
    return tuple(
        GpuUsage(uuid, "", of.get(_GPU_DUTY), of.get(_GPU_USED), of.get(_GPU_TOTAL))
        for uuid, of in sorted(values.items())
        if uuid
    )


class RatioWindow:
    """Queue seconds over compute seconds of one pod and model, over what was scraped in the last `window_s`.

    Holds increments, not totals, so that a restart of Triton inside the window costs only what it never counted. The
    increment of a scrape counts from the scrape before it: with scrapes rarer than the window, the last one alone.
    """

    # Two scrapers a second must not make the ring grow: increments closer than this share of the window are one.
    _GRAIN = 1 / 64

    def __init__(self, window_s: float) -> None:
        self.window_s = window_s
        self._last: tuple[float, float] | None = None
        self._ring: deque[tuple[float, float, float]] = deque()

    def observe(self, now_s: float, queue_s: float, compute_s: float) -> None:
        """Add one scrape of the two counters; `now_s` is monotonic."""
        last, self._last = self._last, (queue_s, compute_s)
        if last is None:
            return
        queue_delta_s, compute_delta_s = queue_s - last[0], compute_s - last[1]
        if queue_delta_s < 0 or compute_delta_s < 0:  # both restart together: what they say is all since the restart
            queue_delta_s, compute_delta_s = queue_s, compute_s
        if self._ring and now_s - self._ring[-1][0] < self.window_s * self._GRAIN:
            at_s, queue_sum_s, compute_sum_s = self._ring.pop()
            self._ring.append((at_s, queue_sum_s + queue_delta_s, compute_sum_s + compute_delta_s))
        else:
            self._ring.append((now_s, queue_delta_s, compute_delta_s))

    def ratio(self, now_s: float) -> float | None:
        """Δqueue / Δcompute over the window; None where nothing was computed in it, or nothing is known."""
        while self._ring and self._ring[0][0] <= now_s - self.window_s:
            self._ring.popleft()
        compute_s = sum(entry[2] for entry in self._ring)
        return sum(entry[1] for entry in self._ring) / compute_s if compute_s > 0 else None

    def __len__(self) -> int:
        return len(self._ring)
