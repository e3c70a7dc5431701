"""`splatfleet backtest`: what the autoscaler would have done on your own demand."""

from __future__ import annotations

import json
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click
import yaml
from pydantic import Field
from pydantic_settings import SettingsConfigDict

from fleet.metrics import GATEWAY_REQUESTS
from splatfleet.addresses import check_url
from splatfleet.settings import DAY_S, WRITES_PLOT, UsageError, VerbSettings, verb
from splatfleet.simulate_scaling import load_trace, progress

if TYPE_CHECKING:
    from fleet.traffic import RateTrace

BIN_S = 60.0


class BacktestSettings(VerbSettings):
    model_config = SettingsConfigDict(env_prefix="SPLATFLEET_BACKTEST_", populate_by_name=True)

    prometheus: str | None = Field(None, description="URL of the Prometheus that holds the demand.")
    query: str = Field(
        f"sum(rate({GATEWAY_REQUESTS.name}[{BIN_S:g}s]))", description="PromQL that answers requests a second."
    )
    days: float = Field(14.0, ge=0.5, le=60, description="Days of history; the last three are played.")
    trace: Path | None = Field(None, description="CSV `timestamp_s,requests` in place of Prometheus.")
    service: float = Field(0.25, ge=0.001, le=3600, description="Mean seconds of a render on one pod.")
    service_cv: float = Field(0.3, ge=0, le=10, description="Standard deviation / mean of a render.")
    start_up: float = Field(
        180.0, gt=0, le=DAY_S, description="Median seconds from the ask for a pod until it is ready."
    )
    max_wait: float = Field(0.5, gt=0, le=3600, description="Seconds that a request may wait.")
    violation_ratio: float = Field(0.01, gt=0, lt=1, description="Share of the requests that may wait longer.")
    json_file: Path | None = Field(None, alias="json", description="Write the figures here.")
    plot: Path | None = Field(
        None, description="Write the plot of violations over cost here (.png or .svg).", json_schema_extra=WRITES_PLOT
    )


def read_demand(settings: BacktestSettings) -> RateTrace:
    """The history from the CSV or from Prometheus; raises UsageError and click.ClickException."""
    if (settings.prometheus is None) == (settings.trace is None):
        raise UsageError("--prometheus or --trace: give one of them (example: --prometheus http://127.0.0.1:9090)")
    if settings.trace is not None:
        from fleet.traffic import window

        trace = load_trace(settings.trace)
        return window(trace, max(0.0, trace.duration_s - settings.days * DAY_S), settings.days * DAY_S)
    url = settings.prometheus or ""
    check_url(url, "--prometheus")
    from autoscaler.prometheus import PrometheusError
    from simulator.prometheus_history import read_history

    try:
        return read_history(url, settings.query, time.time(), settings.days, BIN_S)
    except PrometheusError as error:
        raise click.ClickException(f"Prometheus {url}: {error}") from error
    except ValueError as error:
        raise UsageError(f"--query: {error}") from error


def run(settings: BacktestSettings) -> int:
    """Play the last days of your own demand: what our policy would have cost and missed, beside KEDA and fixed counts.

    Prints the Pareto curve and the settings to take. Exits with 1 where no setting meets the objective.
    """
    trace = read_demand(settings)
    from autoscaler.loop import Objective
    from simulator.backtest import CONTENDERS, backtest
    from simulator.report import plot
    from simulator.traffic import Service
    from simulator.workers import usual_count
    from simulator.world import StartUp

    try:
        with progress(len(CONTENDERS)) as advance:
            result = backtest(
                trace,
                Service(settings.service, settings.service_cv),
                StartUp(settings.start_up),
                Objective(settings.max_wait, settings.violation_ratio),
                advance,
                workers=usual_count(),
            )
    except ValueError as error:
        raise click.ClickException(str(error)) from error
    click.echo(f"the last {result.days:.1f} days, GPU time relative to a clairvoyant's; + is on the Pareto curve")
    click.echo(f"  {'policy':26} {'knob':>5} {'violations':>11} {'cost':>6} {'wait p99':>9} {'reversals/d':>11}")
    for row in sorted(result.rows, key=lambda row: row.cost_ratio):
        click.echo(
            f"{'+' if row in result.front else ' '} {row.policy:26} {row.knob:5g} {100 * row.violation_ratio:10.3f}%"
            f" {row.cost_ratio:6.2f} {row.wait_p99_s:8.2f}s {row.reversals_per_day:11.1f}"
        )
    click.echo("\n# recommended\n" + yaml.safe_dump({"pools": [result.settings]}, sort_keys=False), nl=False)
    if settings.json_file is not None:
        report = {"rows": [asdict(row) for row in result.rows], "recommended": result.settings, "days": result.days}
        settings.json_file.write_text(json.dumps(report, indent=1) + "\n")
    if settings.plot is not None:
        plot(result.rows, settings.plot, "your traffic")
    if not result.met:
        least = f"the one that misses it least, with {100 * result.recommended.violation_ratio:.3g} %, is recommended"
        if "mode" in result.settings:
            least = "of less than two days nothing but the reactive mode is recommended"
        click.echo(
            f"none of ours kept violations within {100 * settings.violation_ratio:g} %; {least}. "
            "A shorter start-up, a longer --max-wait or more pods at all times (min_replicas) would help",
            err=True,
        )
        return 1
    return 0


COMMAND = verb(
    "backtest",
    BacktestSettings,
    run,
    example="""
splatfleet backtest --prometheus http://127.0.0.1:9090 --query 'sum(rate(http_requests_total[1m]))' --days 14
splatfleet backtest --trace demand.csv --start-up 90
""",
)
