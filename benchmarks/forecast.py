"""How much better than persistence the forecast is, whether its quantile holds, and what a tick costs.

On recorded traffic, rolling: every bin is forecast before it is seen, the first half of a trace is not scored.
"""

from __future__ import annotations

import gzip
import json
import math
import os
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from autoscaler.boosting import fit
from autoscaler.forecast import Forecaster, shape_for
from benchmarks.machine import describe
from fleet.labels import DATA_ENV
from fleet.traffic import Floats, parse_rate_trace
from simulator.forecasts import days_near
from simulator.workers import worker_pool

HORIZONS_S = (600.0, 1800.0)
QUANTILE = 0.9
DAY_S = 86_400.0


@dataclass(frozen=True, slots=True)
class Row:
    """One trace at one horizon. `pinball_relative` below 1 is better than calibrated persistence."""

    trace: str
    bin_s: float
    horizon_s: float  # as asked; a horizon below one bin is one bin
    pinball_relative: float
    coverage: float
    worst_day_coverage: float
    days_near: float  # share of the days whose coverage is within 6 points of the quantile
    ms_per_step: float
    build_ms: float  # from nothing to ready, over the whole history


def load_counts(path: Path, bin_s: float = 300.0) -> tuple[float, Floats]:
    """Arrivals in bins of at least `bin_s`."""
    with gzip.open(path, "rt") as lines:
        trace = parse_rate_trace(lines)
    step = max(1, round(bin_s / trace.bin_s))
    whole = trace.counts[: trace.counts.size // step * step]
    return trace.bin_s * step, whole.reshape(-1, step).sum(axis=1)


def score(name: str, bin_s: float, counts: Floats, horizon_s: float, quantile: float = QUANTILE) -> Row:
    """Roll over one trace: forecast, wait for the outcome, compare."""
    rates = counts / bin_s
    shape = shape_for(float(np.nanmean(counts)), bin_s, horizon_s, (DAY_S, 7 * DAY_S), quantile, None)
    forecaster = Forecaster(shape)
    begin_s, fitting_s, fits = time.process_time(), 0.0, 0
    answers = np.full((rates.size, 2), math.nan)
    for index, rate in enumerate(rates.tolist()):
        forecaster.update(rate)
        if forecaster.refit_due:
            begin_fit_s = time.process_time()
            forecaster.adopt(fit(forecaster.refit_task()))
            fitting_s += time.process_time() - begin_fit_s
            fits += 1
        reference = forecaster.reference()
        quantiles = forecaster.quantiles()
        if quantiles is not None and reference is not None:
            answers[index] = quantiles[shape.working], reference[shape.working]
    spent_s = time.process_time() - begin_s - fitting_s
    actual = highest_ahead(rates, shape.average_bins, shape.lead_bins)
    scored = np.isfinite(actual) & np.isfinite(answers[:, 0]) & (np.arange(rates.size) >= rates.size // 2)
    error = actual[scored, None] - answers[scored]
    loss = np.maximum(quantile * error, (quantile - 1) * error).mean(axis=0)
    met = actual[scored] <= answers[scored, 0]
    days = (np.flatnonzero(scored) * bin_s // DAY_S).astype(int)
    by_day = [float(met[days == day].mean()) for day in np.unique(days) if (days == day).sum() * bin_s > DAY_S / 2]
    per_step_ms = spent_s / rates.size * 1e3
    relative = float(loss[0] / loss[1])
    return Row(
        name,
        bin_s,
        horizon_s,
        relative,
        float(met.mean()),
        min(by_day, default=math.nan),
        days_near(by_day, quantile),
        per_step_ms,
        spent_s * 1e3,
    )


def highest_ahead(rates: Floats, average: int, lead: int) -> Floats:
    """[bins] the highest averaged rate over the `lead` bins after each bin, nan where half of them are unknown."""
    known = np.isfinite(rates)
    sums = np.convolve(np.where(known, rates, 0.0), np.ones(average))[: rates.size]
    count = np.convolve(known, np.ones(average))[: rates.size]
    averages = np.where(2 * count >= average, sums / np.maximum(count, 1), math.nan)
    padded = np.concatenate((averages[1:], np.full(lead, math.nan)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, lead)[: rates.size]
    some = np.isfinite(windows)
    highest: Floats = np.where(some, windows, -math.inf).max(axis=1)
    highest[(2 * some.sum(axis=1) < lead) | (np.arange(rates.size) + lead >= rates.size)] = math.nan
    return highest


def main(json_path: Path | None = None, workers: int = 1, shortest_s: float = 4 * DAY_S) -> list[Row]:
    """Score every trace of four days or more under SPLATFLEET_DATA (default ../shared); print and write the rows."""
    default = Path(__file__).resolve().parents[2] / "shared"
    folder = Path(os.environ.get(DATA_ENV, default)) / "traces"
    jobs = [(path, horizon_s, shortest_s) for path in sorted(folder.glob("rate_*.csv.gz")) for horizon_s in HORIZONS_S]
    titles = f"{'pinball':>8} {'coverage':>9} {'worst day':>9} {'days near':>9} {'ms/step':>8}"
    print(f"{'trace':34} {'horizon':>8} {titles}", flush=True)
    rows = []
    with worker_pool(workers) as pool:
        for row in filter(None, pool.map(_score_file, jobs)):
            rows.append(row)
            print(
                f"{row.trace:34} {row.horizon_s:7.0f}s {row.pinball_relative:8.3f} {row.coverage:9.3f}"
                f" {row.worst_day_coverage:9.2f} {row.days_near:9.2f} {row.ms_per_step:8.3f}",
                flush=True,
            )
    for horizon_s in HORIZONS_S:
        values = [row.pinball_relative for row in rows if row.horizon_s == horizon_s]
        if values:
            print(f"{'geometric mean':34} {horizon_s:7.0f}s {math.exp(float(np.mean(np.log(values)))):8.3f}")
    if not rows:
        print(f"no traces in {folder} (set {DATA_ENV})")
    if json_path is not None:
        report = {"machine": asdict(describe()), "quantile": QUANTILE, "rows": [asdict(row) for row in rows]}
        json_path.write_text(json.dumps(report, indent=1) + "\n")
    return rows


def _score_file(job: tuple[Path, float, float]) -> Row | None:
    """One trace at one horizon; None where it is shorter than asked."""
    path, horizon_s, shortest_s = job
    bin_s, counts = load_counts(path)
    if counts.size * bin_s < shortest_s:
        return None
    return score(path.name.removesuffix(".csv.gz"), bin_s, counts, horizon_s)


if __name__ == "__main__":
    main()
