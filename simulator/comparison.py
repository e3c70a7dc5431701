"""What the rows of one trace say of ours beside the best-tuned reactive rival: at equal cost, at equal violations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from simulator.scaling import Row


@dataclass(frozen=True, slots=True)
class Comparison:
    """One trace. None where ours has no point to compare: never so cheap, or never so few violations."""

    trace: str
    rival: Row
    ours_at_cost: Row | None  # fewest violations at the rival's cost or less
    ours_at_violations: Row | None  # cheapest at the rival's violations or fewer

    @property
    def violations_of_rival(self) -> float | None:
        """Our violations as a share of the rival's, at its cost or less; both without any are 1."""
        if self.ours_at_cost is None:
            return None
        if self.rival.violation_ratio == 0.0:
            return 1.0 if self.ours_at_cost.violation_ratio == 0.0 else float("inf")
        return self.ours_at_cost.violation_ratio / self.rival.violation_ratio

    @property
    def saved(self) -> float | None:
        """Share of the rival's GPU time saved at its violations or fewer; negative: ours takes more."""
        if self.ours_at_violations is None:
            return None
        return 1.0 - self.ours_at_violations.cost_ratio / self.rival.cost_ratio

    @property
    def interval(self) -> tuple[float, float] | None:
        """95 % of `violations_of_rival` when the days of the test are drawn again, both policies' days together."""
        return None if self.ours_at_cost is None else paired_interval(self.ours_at_cost, self.rival)


def paired_interval(ours: Row, rival: Row, draws: int = 2000, seed: int = 1) -> tuple[float, float] | None:
    """Bootstrap over days of the ratio of two violation counts; None without days or where the rival has none."""
    days = np.array([ours.violations_by_day, rival.violations_by_day], dtype=np.float64)
    if days.size == 0 or days[1].sum() == 0:
        return None
    chosen = np.random.default_rng(seed).integers(0, days.shape[1], (draws, days.shape[1]))
    sums = days[:, chosen].sum(axis=2)
    ratios = sums[0] / np.maximum(sums[1], 1.0)
    low, high = np.quantile(ratios, (0.025, 0.975))
    return float(low), float(high)


def best_in_hindsight(rows: Sequence[Row], allowed: float = 0.01) -> list[Row]:
    """O3: the fixed quantile of ours that would have been best, as a row of its own; none without ours."""
    ours = [row for row in mean_over_seeds(rows) if row.kind == "ours"]
    if not ours:
        return []
    best = min(ours, key=lambda row: (max(row.violation_ratio, allowed), row.cost_ratio))
    return [replace(best, policy="oracle-quantile", kind="oracle")]


def mean_over_seeds(rows: Sequence[Row]) -> list[Row]:
    """One row a policy and knob, in the order of their first."""
    groups: dict[tuple[str, float], list[Row]] = {}
    for row in rows:
        groups.setdefault((row.policy, row.knob), []).append(row)
    return [_mean(group) for group in groups.values()]


def _mean(group: Sequence[Row]) -> Row:
    if len(group) == 1:
        return group[0]

    def mean(name: str) -> float:
        return float(np.mean([getattr(row, name) for row in group]))

    return replace(
        group[0],
        violation_ratio=mean("violation_ratio"),
        cost_ratio=mean("cost_ratio"),
        wait_p99_s=mean("wait_p99_s"),
        cold_requests=round(mean("cold_requests")),
        scene_cold_requests=round(mean("scene_cold_requests")),
        scene_loads=round(mean("scene_loads")),
        scene_fetches=round(mean("scene_fetches")),
        reversals_per_day=mean("reversals_per_day"),
        actions_per_day=mean("actions_per_day"),
        decision_ms_p99=mean("decision_ms_p99"),
        worst_day_violation_ratio=mean("worst_day_violation_ratio"),
        money_per_hour=mean("money_per_hour"),
    )


def best_rivals(rows: Sequence[Row], allowed: float = 0.01) -> list[Row]:
    """The reactive rivals at their tuned knobs (at all, where none was tuned), best first.

    Cheapest first among those within the allowed violations, then those with the fewest.
    """
    means = [row for row in mean_over_seeds(rows) if row.kind == "reactive"]
    tuned = [row for row in means if row.tuned]
    return sorted(tuned or means, key=lambda row: (max(row.violation_ratio, allowed), row.cost_ratio))


def compare(rows: Sequence[Row], allowed: float = 0.01) -> Comparison | None:
    """Ours against the best of the reactive rivals' tuned points; None without either.

    Which rival is the best is judged on the test days, in the rival's favour: the cheapest within the allowed
    violations, else the one with the fewest.
    """
    rivals = best_rivals(rows, allowed)
    ours = [row for row in mean_over_seeds(rows) if row.kind == "ours"]
    if not rivals or not ours:
        return None
    best = rivals[0]
    cheap = [row for row in ours if row.cost_ratio <= best.cost_ratio]
    good = [row for row in ours if row.violation_ratio <= best.violation_ratio]
    return Comparison(
        best.trace,
        best,
        min(cheap, key=lambda row: row.violation_ratio, default=None),
        min(good, key=lambda row: row.cost_ratio, default=None),
    )


def pareto(rows: Sequence[Row]) -> list[Row]:
    """The rows that no other beats in both cost and violations, cheapest first."""
    front: list[Row] = []
    for row in sorted(rows, key=lambda row: (row.cost_ratio, row.violation_ratio)):
        if not front or row.violation_ratio < front[-1].violation_ratio:
            front.append(row)
    return front
