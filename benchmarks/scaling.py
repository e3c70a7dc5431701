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
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np

from benchmarks.machine import describe
from fleet.labels import DATA_ENV
from fleet.traffic import DAY_S
from simulator.comparison import Comparison, best_rivals, compare
from simulator.report import plot, sentence, table
from simulator.scaling import Row, Setting, jobs_for, play_all
from simulator.trace_file import read_trace
from simulator.world import StartUp

REPOSITORY = Path(__file__).resolve().parents[1]
PAGE = REPOSITORY / "docs" / "benchmarks" / "scaling.md"
TEST_DAYS = 7.0
START_UPS_S = (30.0, 420.0)  # beside the 180 s of the tables
SENSITIVE = ("splatfleet", 0.95)  # policy and knob that are played at them


def measure(folder: Path, out: Path, policies: str, seeds: int, workers: int) -> None:
    """Play every trace that has no figures yet; the last seven days of each are the test."""
    (out / "start-up").mkdir(parents=True, exist_ok=True)
    for path in sorted(folder.glob("rate_*.csv.gz")):
        name = path.name.removesuffix(".csv.gz").removeprefix("rate_")
        target = out / f"{name}.json"
        trace = read_trace(path)
        if target.exists() or trace.duration_s < 14 * DAY_S:
            continue
        began_s = time.perf_counter()
        setting = Setting(trace, name, test_from_day=trace.duration_s / DAY_S - TEST_DAYS)
        rows = play_all(setting, jobs_for(policies, seeds, 1, training=True), workers)
        again = [(row.policy, row.knob, seed, False) for row in best_rivals(rows)[:2] for seed in range(2, seeds + 1)]
        rows += [replace(row, tuned=True) for row in play_all(setting, again, workers)]
        target.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n")
        for start_s in START_UPS_S if "splatfleet" in policies or policies == "all" else ():
            other = replace(setting, start_up=StartUp(start_s))
            (row,) = play_all(other, [(*SENSITIVE, 1, False)])
            start_file(out, name, start_s).write_text(json.dumps(asdict(row), indent=1) + "\n")
        print(f"{name}: {len(rows)} rows in {time.perf_counter() - began_s:.0f} s", file=sys.stderr, flush=True)


def start_file(out: Path, name: str, start_s: float) -> Path:
    """Where the row of one trace at another start-up lies."""
    return out / "start-up" / f"{name}-{start_s:g}.json"


def read_rows(out: Path) -> dict[str, list[Row]]:
    """Trace -> its rows."""
    return {path.stem: [Row(**row) for row in json.loads(path.read_text())] for path in sorted(out.glob("*.json"))}


def write_page(out: Path, page: Path) -> None:
    """The whole page: goals, losses, ablations and every table, with a plot a trace."""
    page.parent.mkdir(parents=True, exist_ok=True)
    rows = read_rows(out)
    found = {name: compare(of_trace) for name, of_trace in rows.items()}
    parts = [_head(), _summary(found), _ablations(rows), _start_ups(rows, out)]
    for name, of_trace in rows.items():
        plot(of_trace, page.parent / f"scaling-{name}.svg", name)
        parts.append(
            f"## {name}\n\n{sentence(found[name])}\n\n![violations over cost](scaling-{name}.svg)\n\n{table(of_trace)}"
        )
    page.write_text("\n\n".join(parts) + "\n")


def _head() -> str:
    machine = describe()
    return f"""# Scaling: every policy over recorded traffic

Made by `make bench-scaling`. Each trace of 14 days or more is scaled to a mean of 10 busy pods; its last seven days
are the test. Renders take 0.25 s (log-normal, variation 0.3), a request may wait 0.5 s, a pod is ready 180 s after it
is asked for (log-normal, σ 0.35), at most 4 x the peak is allowed. Cost is pod time, starts included, over the
clairvoyant's (O1). A knob with * was chosen on the two days before the test.
[simulator.md](../simulator.md) says how it is played and what each rival is.

{machine.cpu}, {machine.cpus} cores, Python {machine.python}."""


def _summary(found: dict[str, Comparison | None]) -> str:
    lines = [
        "## Beside the best-tuned reactive rival",
        "",
        "| trace | rival | its violations % @ cost | ours at its cost or less | of its violations | "
        "GPU time saved at its violations |",
        "|---|---|---|---|---|---|",
    ]
    shares, saved = [], []
    for name, comparison in found.items():
        if comparison is None:
            continue
        rival, cheap = comparison.rival, comparison.ours_at_cost
        share, save = comparison.violations_of_rival, comparison.saved
        shares.append(math.inf if share is None else share)
        saved.append(-math.inf if save is None else save)
        lines.append(
            f"| {name} | {rival.policy} {rival.knob:g} | {100 * rival.violation_ratio:.3f} @ {rival.cost_ratio:.2f} | "
            + (f"{100 * cheap.violation_ratio:.3f} @ {cheap.cost_ratio:.2f}" if cheap else "never so cheap")
            + f" | {'–' if share is None else f'{share:.2f}'} | {'–' if save is None else f'{100 * save:.0f} %'} |"
        )
    won = sum(share <= 0.2 for share in shares)
    worse = sum(share > 1.1 for share in shares)
    lines += [
        "",
        f"Goal: a fifth of the violations at equal or lower cost on two thirds of the traces, never above 1.1: "
        f"**{won} of {len(shares)}**, above 1.1 (or never so cheap) on {worse}.",
        f"Goal: 25 % less GPU time at equal violations in the median: **{_percent(float(np.median(saved)))}**."
        if saved
        else "",
    ]
    return "\n".join(lines)


def _percent(share: float) -> str:
    return "no such point on half of the traces" if math.isinf(share) else f"{100 * share:.0f} %"


def _ablations(rows: dict[str, list[Row]]) -> str:
    lines = [
        "## Ours with parts switched off",
        "",
        "Violations % @ cost, forecast quantile 0.95 (reactive: share of capacity 0.7).",
        "",
        "| trace | whole | no pending trigger | nor flap budget | reactive |",
        "|---|---|---|---|---|",
    ]
    for name, of_trace in rows.items():
        cells = []
        for policy, knob in (
            ("splatfleet", 0.95),
            ("splatfleet-no-pending", 0.95),
            ("splatfleet-no-flap-budget", 0.95),
            ("splatfleet-reactive", 0.7),
        ):
            found = [row for row in of_trace if (row.policy, row.knob) == (policy, knob)]
            cells.append(f"{100 * found[0].violation_ratio:.3f} @ {found[0].cost_ratio:.2f}" if found else "–")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _start_ups(rows: dict[str, list[Row]], out: Path) -> str:
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
        files = [start_file(out, name, start_s) for start_s in START_UPS_S]
        middle = next((row for row in of_trace if (row.policy, row.knob) == SENSITIVE), None)
        if middle is None or not all(path.exists() for path in files):
            continue
        short, long = (Row(**json.loads(path.read_text())) for path in files)
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
    parser.add_argument("--page", type=Path, default=PAGE)
    given = parser.parse_args(arguments)
    folder = Path(os.environ.get(DATA_ENV, REPOSITORY.parent / "shared")) / "traces"
    if not folder.is_dir():
        sys.exit(f"no traces at {folder} (set {DATA_ENV})")
    measure(folder, given.out, given.policies, given.seeds, given.jobs)
    write_page(given.out, given.page)


if __name__ == "__main__":
    main()
