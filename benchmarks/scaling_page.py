"""The page docs/benchmarks/scaling.md: goals, losses, ablations, coverage and every table, from what was played."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.machine import describe
from fleet.traffic import RateTrace, rebin
from simulator.comparison import Comparison, best_in_hindsight, compare, mean_over_seeds
from simulator.report import plot, sentence, table
from simulator.scaling import Row

WHY = "## What is met, what is missed, and why"  # written by hand; kept when the page is made anew
SENSITIVE = ("splatfleet", 0.95)  # policy and knob that are played at other start-ups
START_UPS_S = (30.0, 420.0)  # beside the 180 s of the tables
REGULAR_R2 = 0.9  # of the daily cycle: from here on a trace is regular
ABLATIONS = (
    ("whole", "splatfleet", 0.95),
    ("no pending trigger", "splatfleet-no-pending", 0.95),
    ("no flap budget", "splatfleet-no-flap-budget", 0.95),
    ("margin never widens", "splatfleet-no-pacing", 0.95),
    ("spends nothing", "splatfleet-no-leeway", 0.95),
    ("no forecast (reactive, 0.7)", "splatfleet-reactive", 0.7),
    ("true future in its place (O2)", "oracle-forecast", 0.9),
)


def daily_r2(trace: RateTrace) -> float:
    """Share of the variance (15-minute means, the top 0.5 % clipped) that the mean of the other days explains."""
    quarter = rebin(trace, 900.0).counts
    days = quarter[: quarter.size // 96 * 96].reshape(-1, 96)
    days = np.minimum(days, np.nanquantile(days, 0.995))
    known = np.isfinite(days)
    total, count = np.where(known, days, 0.0).sum(axis=0), known.sum(axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        others = (total - np.where(known, days, 0.0)) / (count - known)
    use = known & np.isfinite(others)
    rest = float(((days - others)[use] ** 2).mean())
    return 1.0 - rest / float(days[use].var())


@dataclass(frozen=True, slots=True)
class Played:
    """What there is to write of."""

    traces: Mapping[str, RateTrace]
    rows: Mapping[str, list[Row]]  # of the test days at 180 s, by trace
    start_ups: Mapping[str, Mapping[float, Row]]  # by trace and start-up time
    chosen: Mapping[str, tuple[str, float] | None]  # of ours by trace: what the training days choose
    forecasts: Sequence[Mapping[str, Any]]  # rows of the forecast benchmark
    bin_s: float
    tick_s: float


def write_page(played: Played, page: Path) -> None:
    """The whole page, with a plot a trace; what was written by hand under its own title is kept."""
    page.parent.mkdir(parents=True, exist_ok=True)
    rows = {name: of_trace for name, of_trace in played.rows.items() if of_trace}
    found = {name: compare(of_trace) for name, of_trace in rows.items()}
    parts = [
        _head(played),
        _by_hand(page),
        _summary(found),
        _untold(found, rows, played.chosen),
        _predictive(rows),
        _regular(rows, {name: daily_r2(played.traces[name]) for name in rows}),
        _ablations(rows),
        _start_ups(rows, played.start_ups),
        _restless(rows),
        _coverage(played.forecasts),
    ]
    for name, of_trace in rows.items():
        plot(of_trace, page.parent / f"scaling-{name}.svg", name)
        whole = table([*of_trace, *best_in_hindsight(of_trace)])
        parts.append(f"## {name}\n\n{sentence(found[name])}\n\n![violations over cost](scaling-{name}.svg)\n\n{whole}")
    page.write_text("\n\n".join(filter(None, parts)) + "\n")


def _by_hand(page: Path) -> str:
    """The section under `WHY` of the page that is there; empty without it."""
    if not page.exists() or WHY not in (text := page.read_text()):
        return ""
    section = text.split(WHY, 1)[1].split("\n## ", 1)[0].strip()
    return f"{WHY}\n\n{section}"


def _coverage(forecasts: Sequence[Mapping[str, Any]]) -> str:
    if not forecasts:
        return ""
    lines = [
        "## Coverage of the forecast",
        "",
        "Of the 0.9 quantile over the second half of each trace (`splatfleet bench forecast`), and pinball loss",
        "relative to calibrated persistence. Goals: within 2 points on each trace, 85 % of the days within 6;",
        "loss 0.70 at ten minutes and 0.50 at thirty in the geometric mean over traces of two weeks, none above 1.03.",
        "",
        "| trace | ahead | loss | coverage | worst day | days within 6 points |",
        "|---|---|---|---|---|---|",
    ]
    for row in forecasts:
        cells = (
            str(row["trace"]).removeprefix("rate_"),
            f"{row['horizon_s'] / 60:g} min",
            f"{row['pinball_relative']:.3f}",
            f"{row['coverage']:.3f}",
            f"{row['worst_day_coverage']:.2f}",
            f"{100 * row['days_near']:.0f} %",
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _head(played: Played) -> str:
    machine = describe()
    return f"""# Scaling: every policy over recorded traffic

Made by `make bench-scaling`. Each trace of 14 days or more is scaled to a mean of 10 busy pods; its last seven days
are the test. Renders take 0.25 s (log-normal, variation 0.3), a request may wait 0.5 s, a pod is ready 180 s after it
is asked for (log-normal, σ 0.35), at most 4 x the peak is allowed. Cost is pod time, starts included, over the
clairvoyant's (O1). Ours sees bins of {played.bin_s:g} s and decides every {played.tick_s:g} s; rivals keep their
rhythm. A knob with * was chosen on the two days before the test; of ours all are compared, unless it is said.
[simulator.md](../simulator.md) says how it is played and what each rival is.

{machine.cpu}, {machine.cpus} cores, Python {machine.python}."""


def _summary(found: Mapping[str, Comparison | None]) -> str:
    lines = [
        "## Beside the best-tuned reactive rival",
        "",
        "The share of its violations that ours has at its cost or less, with 95 % of it when the test days are drawn",
        "again (paired), and the GPU time that ours saves at its violations or fewer.",
        "",
        "| trace | rival | its violations % @ cost | ours at its cost or less | of its violations | 95 % | "
        "GPU time saved |",
        "|---|---|---|---|---|---|---|",
    ]
    shares, saved = [], []
    for name, comparison in found.items():
        if comparison is None:
            continue
        rival, cheap = comparison.rival, comparison.ours_at_cost
        share, save, interval = comparison.violations_of_rival, comparison.saved, comparison.interval
        shares.append(math.inf if share is None else share)
        saved.append(-math.inf if save is None else save)
        point = "never so cheap" if cheap is None else _point(cheap)
        cells = (
            name,
            f"{rival.policy} {rival.knob:g}",
            f"{100 * rival.violation_ratio:.3f} @ {rival.cost_ratio:.2f}",
            point,
            "–" if share is None else f"{share:.2f}",
            "–" if interval is None else f"{interval[0]:.2f} to {interval[1]:.2f}",
            "–" if save is None else f"{100 * save:.0f} %",
        )
        lines.append(f"| {' | '.join(cells)} |")
    won, even = sum(share <= 0.2 for share in shares), sum(share <= 1.0 for share in shares)
    worse = sum(share > 1.1 for share in shares)
    lines += [
        "",
        f"Goal: a fifth of the violations at equal or lower cost on two thirds of the traces, never above 1.1: "
        f"**{won} of {len(shares)}** (no more violations on {even}), above 1.1 or never so cheap on {worse}.",
        f"Goal: 25 % less GPU time at equal violations in the median: **{_percent(float(np.median(saved)))}**."
        if saved
        else "",
    ]
    return "\n".join(lines)


def _untold(
    found: Mapping[str, Comparison | None],
    rows: Mapping[str, list[Row]],
    chosen: Mapping[str, tuple[str, float] | None],
) -> str:
    lines = [
        "## Ours without knowing the test days",
        "",
        "The table above takes the best of ours in hindsight. Here policy and knob of ours are one choice, made on",
        "the two days before the test by the rule that tunes each rival: the cheapest within the objective, else",
        "the one that misses it least. The rival is the best of the tuned ones, judged in its favour on the test days.",
        "",
        "| trace | rival | its violations % @ cost | ours as chosen | violations % @ cost | of its violations |"
        " cost to its |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, of_trace in rows.items():
        comparison, choice = found[name], chosen.get(name)
        ours = next((row for row in mean_over_seeds(of_trace) if (row.policy, row.knob) == choice), None)
        if comparison is None or ours is None:
            continue
        rival = comparison.rival
        share = ours.violation_ratio / rival.violation_ratio if rival.violation_ratio > 0 else math.inf
        cells = (
            name,
            f"{rival.policy} {rival.knob:g}",
            f"{100 * rival.violation_ratio:.3f} @ {rival.cost_ratio:.2f}",
            f"{ours.policy} {ours.knob:g}",
            f"{100 * ours.violation_ratio:.3f} @ {ours.cost_ratio:.2f}",
            f"{share:.2f}",
            f"{ours.cost_ratio / rival.cost_ratio:.2f}",
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) if len(lines) > 8 else ""


def _predictive(rows: Mapping[str, list[Row]]) -> str:
    lines = [
        "## Beside rivals that predict",
        "",
        "The predictive rival that has the fewest violations at most at the cost of the reactive one above, any knob,",
        "and ours at its cost or less.",
        "",
        "| trace | rival | its violations % @ cost | ours at its cost or less |",
        "|---|---|---|---|",
    ]
    for name, of_trace in rows.items():
        comparison, means = compare(of_trace), mean_over_seeds(of_trace)
        most = math.inf if comparison is None else comparison.rival.cost_ratio
        rivals = [row for row in means if row.kind == "predictive" and row.cost_ratio <= most]
        if not rivals:
            continue
        rival = min(rivals, key=lambda row: row.violation_ratio)
        ours = [row for row in means if row.kind == "ours" and row.cost_ratio <= rival.cost_ratio]
        point = _point(min(ours, key=lambda row: row.violation_ratio, default=None))
        at = f"{100 * rival.violation_ratio:.3f} @ {rival.cost_ratio:.2f}"
        lines.append(f"| {name} | {rival.policy} {rival.knob:g} | {at} | {point} |")
    return "\n".join(lines) if len(lines) > 7 else ""


def _percent(share: float) -> str:
    return "no such point on half of the traces" if math.isinf(share) else f"{100 * share:.0f} %"


def _regular(rows: Mapping[str, list[Row]], cycle: Mapping[str, float]) -> str:
    lines = [
        "## Regular traces",
        "",
        f"Daily R² of {REGULAR_R2:g} and more. Goal: at most 0.1 % violations at 1.15 times the clairvoyant's cost.",
        "",
        "| trace | daily R² | ours with the fewest violations at 1.15 or less | cheapest of ours with 0.1 % or fewer |",
        "|---|---|---|---|",
    ]
    for name, of_trace in rows.items():
        ours = [row for row in mean_over_seeds(of_trace) if row.kind == "ours"]
        if cycle[name] >= REGULAR_R2 and ours:
            cheap = min((r for r in ours if r.cost_ratio <= 1.15), key=lambda r: r.violation_ratio, default=None)
            good = min((r for r in ours if r.violation_ratio <= 0.001), key=lambda r: r.cost_ratio, default=None)
            lines.append(f"| {name} | {cycle[name]:.2f} | {_point(cheap)} | {_point(good)} |")
    return "\n".join(lines)


def _point(row: Row | None) -> str:
    if row is None:
        return "none"
    told = row.policy.removeprefix("splatfleet-").replace("splatfleet", "")
    return f"{100 * row.violation_ratio:.3f} % @ {row.cost_ratio:.2f} ({f'{told} {row.knob:g}'.strip()})"


def _restless(rows: Mapping[str, list[Row]]) -> str:
    lines = [
        "## Reversals",
        "",
        "Up after down, a day. Goal: at most 10.",
        "",
        "| trace | ours at 0.5 | 0.8 | 0.9 | 0.95 | 0.98 | 0.99 | keda 0.7 | no flap budget |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    columns = [("splatfleet", knob) for knob in (0.5, 0.8, 0.9, 0.95, 0.98, 0.99)]
    columns += [("keda", 0.7), ("splatfleet-no-flap-budget", 0.95)]
    for name, of_trace in rows.items():
        at = {(row.policy, row.knob): row.reversals_per_day for row in mean_over_seeds(of_trace)}
        cells = [f"{at[key]:.1f}" if key in at else "–" for key in columns]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _ablations(rows: Mapping[str, list[Row]]) -> str:
    lines = [
        "## Ours with parts switched off",
        "",
        "Violations % @ cost, forecast quantile 0.95.",
        "",
        f"| trace | {' | '.join(title for title, _, _ in ABLATIONS)} |",
        "|---" * (len(ABLATIONS) + 1) + "|",
    ]
    for name, of_trace in rows.items():
        at = {(row.policy, row.knob): row for row in of_trace if row.seed == 1}
        found = [at.get((policy, knob)) for _, policy, knob in ABLATIONS]
        cells = [f"{100 * row.violation_ratio:.3f} @ {row.cost_ratio:.2f}" if row else "–" for row in found]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _start_ups(rows: Mapping[str, list[Row]], start_ups: Mapping[str, Mapping[float, Row]]) -> str:
    policy, knob = SENSITIVE
    lines = [
        "## Start-up time",
        "",
        f"Violations % @ cost of {policy} at {knob:g}. Goal: at 420 s at most twice those at 30 s, or 0.2 points more.",
        "",
        "| trace | 30 s | 180 s | 420 s | goal |",
        "|---|---|---|---|---|",
    ]
    for name, of_trace in rows.items():
        others = [start_ups.get(name, {}).get(start_s) for start_s in START_UPS_S]
        middle = next((row for row in of_trace if (row.policy, row.knob, row.seed) == (*SENSITIVE, 1)), None)
        short, long = others
        if middle is None or short is None or long is None:
            continue
        met = long.violation_ratio <= max(2.0 * short.violation_ratio, short.violation_ratio + 0.002)
        cells = [f"{100 * row.violation_ratio:.3f} @ {row.cost_ratio:.2f}" for row in (short, middle, long)]
        lines.append(f"| {name} | {' | '.join(cells)} | {'met' if met else 'missed'} |")
    return "\n".join(lines)
