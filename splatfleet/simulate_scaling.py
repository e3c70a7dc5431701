"""`splatfleet simulate scaling`: our autoscaler and its rivals over a rate trace."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click
from pydantic import Field
from pydantic_settings import SettingsConfigDict

from splatfleet.settings import DAY_S, WRITES_FOLDER, UsageError, VerbSettings, verb

if TYPE_CHECKING:
    from fleet.traffic import RateTrace
    from simulator.scaling import Row, Setting
    from simulator.scene_requests import SceneSetting


class ScalingSettings(VerbSettings):
    model_config = SettingsConfigDict(env_prefix="SPLATFLEET_SIMULATE_SCALING_", populate_by_name=True)

    trace: Path = Field(description="Rate trace: CSV `timestamp_s,requests`, gzipped or not.")
    policies: str = Field("all", description="all, or names with commas (`dynamo` is every dynamo-…).")
    start_up: float = Field(
        180.0,
        gt=0,
        le=DAY_S,
        description="Median seconds from the ask until a pod is ready; --scenes plays its second half.",
    )
    start_up_sigma: float = Field(0.35, ge=0, le=5, description="Spread of the start-up (of its logarithm).")
    max_wait: float = Field(0.5, gt=0, le=3600, description="Seconds that a request may wait.")
    violation_ratio: float = Field(0.01, gt=0, lt=1, description="Share of the requests that may wait longer.")
    service: float = Field(0.25, ge=0.001, le=3600, description="Mean seconds of a render.")
    service_cv: float = Field(0.3, ge=0, le=10, description="Standard deviation / mean of a render.")
    mean_pods: float = Field(10.0, gt=0, le=5000, description="Mean demand in busy pods: the trace is scaled to it.")
    test_from_day: float | None = Field(None, ge=0, description="First day that is scored; else the last seven are.")
    train_days: float = Field(
        2.0, ge=0, le=400, description="Days before it on which the rivals' knobs are chosen; 0: none."
    )
    seeds: int = Field(1, ge=1, le=1000, description="Seeds of ours.")
    rival_seeds: int = Field(1, ge=1, le=1000, description="Seeds of the others.")
    scenes: int = Field(
        0, ge=0, le=1_000_000, description="Scenes that the requests ask for; 0: they ask for pods alone."
    )
    scene_popularity: str = Field(
        "0.9", description="Zipf exponent, or a file of recorded requests (CSV; .gz too) whose objects are the scenes."
    )
    scenes_per_pod: int = Field(8, ge=1, le=1_000_000, description="Scenes that a pod's memory holds.")
    scenes_per_node: int = Field(32, ge=1, le=1_000_000, description="Scenes that a node's disk holds.")
    scene_nodes: int = Field(4, ge=1, le=100_000, description="Nodes; they outlive their pods.")
    scene_load: float = Field(2.0, ge=0, le=DAY_S, description="Seconds from a node's disk into a pod's memory.")
    scene_fetch: float = Field(
        20.0, gt=0, le=DAY_S, description="Seconds onto a node's disk, with the node's whole link."
    )
    tick: float = Field(30.0, ge=0.1, le=3600, description="Seconds between two of our decisions.")
    bin: int = Field(60, ge=1, le=86_400, description="Seconds of a demand bin that we see.")
    jobs: int = Field(0, ge=0, le=1024, description="Processes; 0: two, or one on a single core.")
    json_file: Path | None = Field(None, alias="json", description="Write the rows here.")
    report: Path | None = Field(
        None,
        description="Folder for the table (scaling.md) and the plot (scaling.png).",
        json_schema_extra=WRITES_FOLDER,
    )


def load_trace(path: Path) -> RateTrace:
    """The trace of `--trace`; raises UsageError."""
    from simulator.trace_file import read_trace

    try:
        return read_trace(path)
    except OSError as error:
        raise UsageError(f"--trace {path}: {error.strerror or error}") from error
    except ValueError as error:
        raise UsageError(f"--trace {error}") from error


def run(settings: ScalingSettings) -> None:
    """Play a rate trace against our autoscaler and its rivals.

    Prints violations, cost (GPU time over the clairvoyant's), the wait and the stability of each policy and knob.
    """
    from simulator.contenders import FAMILIES
    from simulator.scaling import jobs_for, play_all
    from simulator.workers import usual_count

    setting = read_setting(settings)
    if not 0 <= setting.test_from_day < setting.trace.duration_s / DAY_S:
        raise UsageError(
            f"--test-from-day {setting.test_from_day:g}: the trace has {setting.trace.duration_s / DAY_S:.4g} days"
        )
    trained = ("reactive", "predictive") if min(setting.train_days, setting.test_from_day) > 0.01 else ()
    try:
        jobs = jobs_for(settings.policies, settings.seeds, settings.rival_seeds, trained)
        if not jobs:
            raise ValueError(f"{settings.policies!r} names none; known are all, {', '.join(FAMILIES)}")
    except ValueError as error:
        raise UsageError(f"--policies: {error}") from error
    workers = settings.jobs or usual_count()
    with progress(len(jobs)) as advance:
        rows = play_all(setting, jobs, min(workers, len(jobs)), advance)
    publish(rows, settings)


def read_setting(settings: ScalingSettings) -> Setting:
    """What is played; raises UsageError."""
    from autoscaler.loop import Objective
    from simulator.scaling import Setting
    from simulator.traffic import Service
    from simulator.world import StartUp

    trace = load_trace(settings.trace)
    if not trace.mean_per_s > 0:
        raise UsageError(f"--trace {settings.trace}: holds no request, nothing to play")
    days = trace.duration_s / DAY_S
    first = settings.test_from_day if settings.test_from_day is not None else max(days - 7.0, days / 2.0)
    return Setting(
        trace=trace,
        name=settings.trace.name.partition(".")[0],
        service=Service(settings.service, settings.service_cv),
        start_up=StartUp(settings.start_up, settings.start_up_sigma),
        objective=Objective(settings.max_wait, settings.violation_ratio),
        mean_pods=settings.mean_pods,
        test_from_day=first,
        train_days=settings.train_days,
        bin_s=float(settings.bin),
        tick_s=settings.tick,
        scenes=read_scenes(settings),
    )


def read_scenes(settings: ScalingSettings) -> SceneSetting | None:
    """What the requests ask for; None without scenes. Raises UsageError."""
    from simulator.scene_requests import SceneSetting
    from simulator.scene_trace import read_scene_trace

    if not settings.scenes:
        return None
    exponent, trace = 0.0, None
    try:
        exponent = float(settings.scene_popularity)
    except ValueError:
        trace = Path(settings.scene_popularity)
        try:
            recorded = int(read_scene_trace(trace).scene.max()) + 1
        except OSError as error:
            text = f"neither an exponent nor a readable file: {error.strerror or error}"
            raise UsageError(f"--scene-popularity {trace}: {text}") from error
        except ValueError as error:
            raise UsageError(f"--scene-popularity {error}") from error
        if settings.scenes > recorded:
            raise UsageError(f"--scenes {settings.scenes}: {trace} has {recorded} objects") from None
    if not 0.0 <= exponent < math.inf:
        raise UsageError(
            f"--scene-popularity {settings.scene_popularity}: expected an exponent of 0 (all alike) or more"
        )
    return SceneSetting(
        scenes=settings.scenes,
        exponent=exponent,
        trace=trace,
        per_pod=settings.scenes_per_pod,
        nodes=settings.scene_nodes,
        per_node=settings.scenes_per_node,
        load_s=settings.scene_load,
        fetch_s=settings.scene_fetch,
    )


def publish(rows: list[Row], settings: ScalingSettings) -> None:
    """Print the rows, and write what was asked for."""
    from simulator.comparison import compare, mean_over_seeds
    from simulator.report import plot, sentence, table

    click.echo(
        f"{'policy':26} {'knob':>5} {'violations':>11} {'cost':>6} {'p99 s':>8} {'reversals/d':>11} {'ms p99':>7}"
    )
    for row in mean_over_seeds(rows):
        click.echo(
            f"{row.policy:26} {row.knob:4g}{'*' if row.tuned else ' '} {100 * row.violation_ratio:10.3f}%"
            f" {row.cost_ratio:6.2f} {row.wait_p99_s:8.2f} {row.reversals_per_day:11.1f} {row.decision_ms_p99:7.2f}"
        )
    words = sentence(compare(rows, settings.violation_ratio))
    click.echo(words)
    if settings.json_file is not None:
        settings.json_file.write_text(json.dumps({"rows": [asdict(row) for row in rows]}, indent=1) + "\n")
    if settings.report is not None:
        settings.report.mkdir(parents=True, exist_ok=True)
        name = rows[0].trace
        plot(rows, settings.report / "scaling.png", name, settings.violation_ratio)
        text = f"# {name}\n\n{words}\n\n![violations over cost](scaling.png)\n\n{table(rows)}\n"
        (settings.report / "scaling.md").write_text(text)


@contextmanager
def progress(total: int) -> Iterator[Callable[[object], None]]:
    """A bar on a terminal, nothing elsewhere; call what it gives once a job."""
    if not sys.stderr.isatty():
        yield lambda _: None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("playing", total=total)
        yield lambda _: bar.advance(task)


COMMAND = verb(
    "scaling",
    ScalingSettings,
    run,
    example="splatfleet simulate scaling --trace rate.csv.gz --policies splatfleet,keda,static --report out/scaling",
)
