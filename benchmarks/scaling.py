"""Every policy over every recorded rate trace of 14 days or more: the page docs/benchmarks/scaling.md and its figures.

A trace whose figures are already in the folder is not played again, so an interrupted run goes on where it stopped.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from autoscaler.loop import Objective
from benchmarks import forecast
from benchmarks.scaling_page import SENSITIVE, START_UPS_S, Played, write_page
from fleet.labels import DATA_ENV
from fleet.traffic import DAY_S, RateTrace
from simulator.comparison import best_rivals
from simulator.contenders import choose
from simulator.scaling import Batch, Job, Row, Setting, chosen_in_training, jobs_for, stream, tuned_knobs
from simulator.trace_file import read_trace
from simulator.workers import usual_count
from simulator.world import StartUp

REPOSITORY = Path(__file__).resolve().parents[1]
PAGE = REPOSITORY / "docs" / "benchmarks" / "scaling.md"
TEST_DAYS = 7.0
BIN_S, TICK_S = 60.0, 30.0  # of what ours sees, and between its decisions: half of what a pool has costs half the time


@dataclass
class Figures:
    """The rows of every trace, in a file each that grows: what is there is not played again."""

    folder: Path
    workers: int

    def rows(self, name: str) -> list[Row]:
        """What was played so far, training days too."""
        path = self.folder / f"{name}.jsonl"
        return [Row(**json.loads(line)) for line in path.read_text().splitlines()] if path.exists() else []

    def play(self, batches: Sequence[tuple[Setting, Sequence[Job]]]) -> None:
        """Play the jobs that have no row yet, and say when a trace has all of its rows."""
        began_s = time.perf_counter()
        left: list[Batch] = []
        for setting, jobs in batches:
            done = {(row.policy, row.knob, row.seed, row.training) for row in self.rows(setting.name)}
            if rest := [job for job in jobs if job not in done]:
                left.append((setting, rest, self.folder / f"{setting.name}.jsonl"))
        self.folder.mkdir(parents=True, exist_ok=True)
        missing = Counter({setting.name: len(jobs) for setting, jobs, _ in left})
        for row in stream(left, self.workers) if left else ():  # rows are in the files
            missing[row.trace] -= 1
            if not missing[row.trace]:
                print(f"{row.trace}: after {time.perf_counter() - began_s:.0f} s", file=sys.stderr, flush=True)


def measure(traces: dict[str, RateTrace], figures: Figures, policies: str, seeds: int) -> None:
    """Every trace, ours with all seeds and at other start-ups; then more seeds of the two best rivals."""
    settings = {
        name: Setting(trace, name, test_from_day=trace.duration_s / DAY_S - TEST_DAYS, bin_s=BIN_S, tick_s=TICK_S)
        for name, trace in traces.items()
    }
    batches: list[tuple[Setting, Sequence[Job]]] = []
    for name, setting in settings.items():
        # The knob of reactive rivals is what the comparison is with, and what a user would have taken of ours is told.
        batches.append((setting, jobs_for(policies, seeds, 1, trained=("reactive", "ours"))))
        for start_s in START_UPS_S if SENSITIVE[0] in choose_names(policies) else ():
            other = replace(setting, name=f"{name}@{start_s:g}", start_up=StartUp(start_s))
            batches.append((other, [(*SENSITIVE, 1, False)]))
    # All traces in one go: ours of one are the work of one process, and nobody waits until they end.
    figures.play(batches)
    batches = []
    for name, setting in settings.items():
        rows = [row for row in scored(figures.rows(name)) if row.seed == 1]
        knobs = [(row.policy, row.knob) for row in best_rivals(rows)[:2]]
        batches.append((setting, [(*knob, seed, False) for seed in range(2, seeds + 1) for knob in knobs]))
    figures.play(batches)


def scored(rows: Sequence[Row]) -> list[Row]:
    """The rows of the test days in the order of the families, the tuned knobs marked."""
    tuned = tuned_knobs(rows, Objective())
    order = {contender: number for number, contender in enumerate(choose("all"))}
    kept = [replace(row, tuned=tuned.get(row.policy) == row.knob) for row in rows if not row.training]
    return sorted(kept, key=lambda row: (order[row.policy, row.knob], row.seed))


def choose_names(policies: str) -> set[str]:
    """Names of the policies that are played."""
    return {policy for policy, _ in choose(policies)}


def main(arguments: Sequence[str] | None = None) -> None:
    """Play what is missing and write the page."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--out", type=Path, default=REPOSITORY / "out" / "bench-scaling", help="folder of the figures")
    parser.add_argument("--policies", default="all")
    parser.add_argument("--seeds", type=int, default=3, help="of ours and the two best rivals; others one")
    parser.add_argument("--jobs", type=int, default=usual_count(), help="processes")
    parser.add_argument("--traces", default="", help="names with commas; else all of 14 days or more")
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
    figures = Figures(given.out, given.jobs)
    measure(long, figures, given.policies, given.seeds)
    coverage = given.out / "forecast.json"
    if not coverage.exists():
        forecast.main(coverage, given.jobs, 14 * DAY_S)
    forecasts = json.loads(coverage.read_text())["rows"]
    names = [name for name in traces if figures.rows(name)]
    rows = {name: scored(figures.rows(name)) for name in names}
    start_ups = {
        name: {start_s: row for start_s in START_UPS_S for row in figures.rows(f"{name}@{start_s:g}")} for name in names
    }
    chosen = {name: chosen_in_training(figures.rows(name), "ours", Objective()) for name in names}
    write_page(Played(traces, rows, start_ups, chosen, forecasts, BIN_S, TICK_S), given.page)


if __name__ == "__main__":
    main()
