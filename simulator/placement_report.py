"""All policies over the same seeds: means with 95 % intervals, and each one's paired difference to ours."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np

from scheduler_extender.prices import Prices
from simulator.extender_policy import ExtenderPolicy
from simulator.placement import Figures, Policy, demand_fragmentation, simulate
from simulator.placement_oracles import BELADY, POOLED, Recorded, pooled, with_caches_that_know
from simulator.placement_rivals import rivals
from simulator.placement_workload import MIXES, WorkloadSpec, draw
from simulator.workers import worker_pool

OURS = "splatfleet"
COST_ROW = "cost-0-4"
FIGURES = tuple(field.name for field in fields(Figures))
# Two-sided 95 % quantiles of Student's t by degrees of freedom; from 30 on the normal's will do.
_T95: tuple[float, ...] = (
    12.706,
    4.303,
    3.182,
    2.776,
    2.571,
    2.447,
    2.365,
    2.306,
    2.262,
    2.228,
    2.201,
    2.179,
    2.160,
    2.145,
    2.131,
)
_T95 += (2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045)


def policy_names() -> tuple[str, ...]:
    """Every policy, ours first, bounds last."""
    flat = demand_fragmentation("uniform")
    return (OURS, f"{OURS}-driver-order", COST_ROW, *rivals(MIXES["uniform"], flat), BELADY, POOLED)


def make_policy(name: str, mix: str, prices: Prices) -> Policy:
    """A fresh policy; bounds have none."""
    if name == OURS:
        return ExtenderPolicy(prices)
    if name == f"{OURS}-driver-order":
        return ExtenderPolicy(prices, driver_order=True)
    if name == COST_ROW:
        # Time to ready and four times the eviction, nothing for fragmentation but the choice among equal costs.
        row = Prices(fragmentation_s_per_slice=0.0, eviction_weight=4.0, crowding_weight=0.0)
        return ExtenderPolicy(row, packed_ties=True)
    return rivals(MIXES[mix], demand_fragmentation(mix))[name]()


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean over seeds and its 95 % interval; both ends are NaN for a single seed."""

    mean: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Interval:
        """Student's t over the values, one a seed."""
        data = np.array(values, np.float64)
        mean = float(data.mean())
        if len(data) < 2:
            return cls(mean, float("nan"), float("nan"))
        freedom = len(data) - 1
        quantile = _T95[freedom - 1] if freedom <= len(_T95) else 1.96
        half = quantile * float(data.std(ddof=1)) / len(data) ** 0.5
        return cls(mean, mean - half, mean + half)


@dataclass(frozen=True, slots=True)
class Row:
    """One policy: its figures, and how far each lies above ours on the same seeds."""

    policy: str
    figures: Mapping[str, Interval]
    above_ours: Mapping[str, Interval]


def run_one(name: str, spec: WorkloadSpec, cache_bytes: float, prices: Prices, seed: int) -> Figures:
    """One policy on one seed."""
    workload = draw(spec, seed)
    if name == POOLED:
        return pooled(workload)
    if name == BELADY:
        ours = Recorded(ExtenderPolicy(prices))
        return with_caches_that_know(workload, simulate(workload, ours, cache_bytes, seed), ours, cache_bytes)
    return simulate(workload, make_policy(name, spec.mix, prices), cache_bytes, seed)


def compare(
    spec: WorkloadSpec, cache_bytes: float, policies: Sequence[str], seeds: range, prices: Prices, processes: int = 2
) -> list[Row]:
    """Every policy on the same seeds."""
    jobs = [(name, seed) for seed in seeds for name in policies]
    played = _played(jobs, spec, cache_bytes, prices, processes)
    found: dict[tuple[str, int], Figures] = dict(zip(jobs, played, strict=True))

    def column(name: str, figure: str) -> list[float]:
        return [getattr(found[name, seed], figure) for seed in seeds]

    def above(name: str, figure: str) -> Interval:
        pairs = zip(column(name, figure), column(OURS, figure), strict=True)
        return Interval.of([theirs - ours for theirs, ours in pairs])

    return [
        Row(
            name,
            {figure: Interval.of(column(name, figure)) for figure in FIGURES},
            {figure: above(name, figure) for figure in FIGURES} if OURS in policies else {},
        )
        for name in policies
    ]


def _played(
    jobs: Sequence[tuple[str, int]], spec: WorkloadSpec, cache_bytes: float, prices: Prices, processes: int
) -> Iterator[Figures]:
    names, seeds = [name for name, _ in jobs], [seed for _, seed in jobs]
    count = len(jobs)
    specs, caches, priced = [spec] * count, [cache_bytes] * count, [prices] * count
    if processes <= 1:
        yield from map(run_one, names, specs, caches, priced, seeds)
        return
    with worker_pool(processes) as pool:
        yield from pool.map(run_one, names, specs, caches, priced, seeds)


def as_json(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Each row flat: `policy`, its figures as {mean, low, high}, and `above_splatfleet`; what is not known is null."""
    return [
        {
            "policy": row.policy,
            **{figure: _plain(interval) for figure, interval in row.figures.items()},
            "above_splatfleet": {figure: _plain(interval) for figure, interval in row.above_ours.items()},
        }
        for row in rows
    ]


def as_markdown(rows: Sequence[Row]) -> str:
    """A table of means, with the half width of each paired difference to ours behind a `±` where it is known."""
    head = "| policy | slices accepted | scene hits | bytes pulled | ready p95 | stranded slices |"
    lines = [head, "|---|---|---|---|---|---|"]
    for row in rows:
        cells = [_cell(row, figure, *shown) for figure, shown in _SHOWN.items()]
        lines.append(f"| {row.policy} | {' | '.join(cells)} |")
    return "\n".join(lines)


_SHOWN: dict[str, tuple[float, int, str]] = {  # figure -> factor, digits, unit
    "slice_acceptance": (100.0, 2, " %"),
    "scene_hit_ratio": (100.0, 2, " %"),
    "bytes_pulled_ratio": (1.0, 2, "×"),
    "ready_p95_s": (1.0, 2, " s"),
    "stranded_slices": (1.0, 1, ""),
}


def _cell(row: Row, figure: str, factor: float, digits: int, unit: str) -> str:
    mean = row.figures[figure].mean
    if math.isnan(mean):
        return "–"
    text = f"{mean * factor:.{digits}f}{unit}"
    above = row.above_ours.get(figure)
    if above is None or row.policy == OURS or math.isnan(above.low):
        return text
    return f"{text} ({above.mean * factor:+.{digits}f} ± {(above.high - above.mean) * factor:.{digits}f})"


def _plain(interval: Interval) -> dict[str, float | None]:
    return {key: None if math.isnan(value) else round(value, 6) for key, value in asdict(interval).items()}
