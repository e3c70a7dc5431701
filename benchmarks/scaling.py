"""Every policy over every recorded rate trace of 14 days or more: the page docs/benchmarks/scaling.md and its figures.

A trace whose figures are already in the folder is not played again, so an interrupted run goes on where it stopped.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from autoscaler.loop import Objective
from benchmarks.machine import describe
from fleet.labels import DATA_ENV
from fleet.traffic import DAY_S, RateTrace, rebin
from simulator.comparison import Comparison, best_in_hindsight, best_rivals, compare, mean_over_seeds
from simulator.contenders import FAMILIES, choose
from simulator.report import plot, sentence, table
from simulator.scaling import Row, Setting, jobs_for, play_all, tuned_knobs
from simulator.trace_file import read_trace
from simulator.world import StartUp

REPOSITORY = Path(__file__).resolve().parents[1]
PAGE = REPOSITORY / "docs" / "benchmarks" / "scaling.md"
TEST_DAYS = 7.0
BIN_S, TICK_S = 60.0, 30.0  # of what ours sees, and between its decisions: half of what a pool has costs half the time
START_UPS_S = (30.0, 420.0)  # beside the 180 s of the tables
SENSITIVE = ("splatfleet", 0.95)  # policy and knob that are played at them
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


CHUNK = 26  # jobs that are played between two writes of the figures

Job = tuple[str, float, int, bool]


@dataclass
class Figures:
    """The rows of every trace, in a file each that grows: what is there is not played again."""

    folder: Path
    workers: int
    until_s: float = math.inf  # of the monotonic clock: no chunk begins later

    def rows(self, name: str) -> list[Row]:
        """What was played so far, training days too."""
        path = self.folder / f"{name}.jsonl"
        return [Row(**json.loads(line)) for line in path.read_text().splitlines()] if path.exists() else []

    def play(self, setting: Setting, jobs: Sequence[Job]) -> bool:
        """Play the jobs that have no row yet; False where time ran out before the last."""
        done = {(row.policy, row.knob, row.seed, row.training) for row in self.rows(setting.name)}
        left = [job for job in jobs if job not in done]
        while left:
            if time.monotonic() > self.until_s:
                return False
            # Ours of a seed go together, because they share their forecasts, and rivals fill the other process.
            own = [job for job in left if FAMILIES[job[0]].pool is not None and job[2:] == left[0][2:]]
            rest = [job for job in left if job not in own]
            chunk = own + rest[:CHUNK]
            self.folder.mkdir(parents=True, exist_ok=True)
            play_all(setting, chunk, self.workers, log=self.folder / f"{setting.name}.jsonl")
            left = [job for job in left if job not in chunk]
        return True


def measure(traces: dict[str, RateTrace], figures: Figures, policies: str, seeds: int) -> None:
    """Every trace with one seed; then other start-ups, and more seeds of ours and of the two best rivals."""
    settings = {
        name: Setting(trace, name, test_from_day=trace.duration_s / DAY_S - TEST_DAYS, bin_s=BIN_S, tick_s=TICK_S)
        for name, trace in traces.items()
    }
    for name, setting in settings.items():
        began_s = time.perf_counter()
        if not figures.play(setting, jobs_for(policies, 1, 1, training=True)):
            return
        print(f"{name}: {time.perf_counter() - began_s:.0f} s", file=sys.stderr, flush=True)
    for name, setting in settings.items():
        for start_s in START_UPS_S if SENSITIVE[0] in choose_names(policies) else ():
            other = replace(setting, name=f"{name}@{start_s:g}", start_up=StartUp(start_s))
            if not figures.play(other, [(*SENSITIVE, 1, False)]):
                return
    for name, setting in settings.items():
        rows = scored(figures.rows(name))
        knobs = [(row.policy, row.knob) for row in rows if row.kind == "ours" and row.seed == 1]
        knobs += [(row.policy, row.knob) for row in best_rivals([row for row in rows if row.seed == 1])[:2]]
        more = [(policy, knob, seed, False) for seed in range(2, seeds + 1) for policy, knob in knobs]
        if not figures.play(setting, more):
            return


def scored(rows: Sequence[Row]) -> list[Row]:
    """The rows of the test days in the order of the families, the tuned knobs marked."""
    tuned = tuned_knobs(rows, Objective())
    order = {contender: number for number, contender in enumerate(choose("all"))}
    kept = [replace(row, tuned=tuned.get(row.policy) == row.knob) for row in rows if not row.training]
    return sorted(kept, key=lambda row: (order[row.policy, row.knob], row.seed))


def choose_names(policies: str) -> set[str]:
    """Names of the policies that are played."""
    return {policy for policy, _ in choose(policies)}


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


def write_page(traces: dict[str, RateTrace], figures: Figures, page: Path) -> None:
    """The whole page: goals, losses, ablations and every table, with a plot a trace."""
    page.parent.mkdir(parents=True, exist_ok=True)
    rows = {name: scored(figures.rows(name)) for name in traces if figures.rows(name)}
    found = {name: compare(of_trace) for name, of_trace in rows.items()}
    cycle = {name: daily_r2(traces[name]) for name in rows}
    parts = [
        _head(),
        _summary(found),
        _regular(rows, cycle),
        _ablations(rows),
        _start_ups(rows, figures),
        _restless(rows),
    ]
    for name, of_trace in rows.items():
        plot(of_trace, page.parent / f"scaling-{name}.svg", name)
        whole = table([*of_trace, *best_in_hindsight(of_trace)])
        parts.append(f"## {name}\n\n{sentence(found[name])}\n\n![violations over cost](scaling-{name}.svg)\n\n{whole}")
    page.write_text("\n\n".join(parts) + "\n")


def _head() -> str:
    machine = describe()
    return f"""# Scaling: every policy over recorded traffic

Made by `make bench-scaling`. Each trace of 14 days or more is scaled to a mean of 10 busy pods; its last seven days
are the test. Renders take 0.25 s (log-normal, variation 0.3), a request may wait 0.5 s, a pod is ready 180 s after it
is asked for (log-normal, σ 0.35), at most 4 x the peak is allowed. Cost is pod time, starts included, over the
clairvoyant's (O1). Ours sees bins of {BIN_S:g} s and decides every {TICK_S:g} s; rivals keep their rhythm. A knob
with * was chosen on the two days before the test.
[simulator.md](../simulator.md) says how it is played and what each rival is.

{machine.cpu}, {machine.cpus} cores, Python {machine.python}."""


def _summary(found: dict[str, Comparison | None]) -> str:
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


def _percent(share: float) -> str:
    return "no such point on half of the traces" if math.isinf(share) else f"{100 * share:.0f} %"


def _regular(rows: dict[str, list[Row]], cycle: dict[str, float]) -> str:
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
    return f"{100 * row.violation_ratio:.3f} % @ {row.cost_ratio:.2f} ({row.knob:g})"


def _restless(rows: dict[str, list[Row]]) -> str:
    lines = [
        "## Reversals",
        "",
        "Up after down, a day. Goal: at most 10.",
        "",
        "| trace | ours at 0.5 | 0.8 | 0.9 | 0.95 | 0.99 | keda 0.7 | no flap budget |",
        "|---|---|---|---|---|---|---|---|",
    ]
    columns = [("splatfleet", knob) for knob in (0.5, 0.8, 0.9, 0.95, 0.99)]
    columns += [("keda", 0.7), ("splatfleet-no-flap-budget", 0.95)]
    for name, of_trace in rows.items():
        at = {(row.policy, row.knob): row.reversals_per_day for row in mean_over_seeds(of_trace)}
        cells = [f"{at[key]:.1f}" if key in at else "–" for key in columns]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _ablations(rows: dict[str, list[Row]]) -> str:
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


def _start_ups(rows: dict[str, list[Row]], figures: Figures) -> str:
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
        others = [figures.rows(f"{name}@{start_s:g}") for start_s in START_UPS_S]
        middle = next((row for row in of_trace if (row.policy, row.knob, row.seed) == (*SENSITIVE, 1)), None)
        if middle is None or not all(others):
            continue
        short, long = others[0][0], others[1][0]
        met = long.violation_ratio <= max(2.0 * short.violation_ratio, short.violation_ratio + 0.002)
        cells = [f"{100 * row.violation_ratio:.3f} @ {row.cost_ratio:.2f}" for row in (short, middle, long)]
        lines.append(f"| {name} | {' | '.join(cells)} | {'met' if met else 'missed'} |")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Play what is missing and write the page."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--out", type=Path, default=REPOSITORY / "out" / "bench-scaling", help="folder of the figures")
    parser.add_argument("--policies", default="all")
    parser.add_argument("--seeds", type=int, default=3, help="of ours and the two best rivals; others one")
    parser.add_argument("--jobs", type=int, default=min(2, os.cpu_count() or 1), help="processes")
    parser.add_argument("--traces", default="", help="names with commas; else all of 14 days or more")
    parser.add_argument("--limit-s", type=float, default=math.inf, help="begin nothing after so many seconds")
    parser.add_argument("--page", type=Path, default=PAGE)
    given = parser.parse_args(arguments)
    folder = Path(os.environ.get(DATA_ENV, REPOSITORY.parent / "shared")) / "traces"
    if not folder.is_dir():
        sys.exit(f"no traces at {folder} (set {DATA_ENV})")
    traces = {
        path.name.removesuffix(".csv.gz").removeprefix("rate_"): read_trace(path)
        for path in sorted(folder.glob("rate_*.csv.gz"))
    }
    asked = given.traces.split(",") if given.traces else list(traces)
    long = {name: traces[name] for name in asked if traces[name].duration_s >= 14 * DAY_S}
    figures = Figures(given.out, given.jobs, time.monotonic() + given.limit_s)
    measure(long, figures, given.policies, given.seeds)
    write_page(traces, figures, given.page)


if __name__ == "__main__":
    main()
