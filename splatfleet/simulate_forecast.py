"""`splatfleet simulate forecast`: our forecast and its rivals over a rate trace."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
import numpy as np
from pydantic import Field
from pydantic_settings import SettingsConfigDict

from splatfleet.settings import UsageError, VerbSettings, verb
from splatfleet.simulate_scaling import load_trace


class ForecastSettings(VerbSettings):
    model_config = SettingsConfigDict(env_prefix="SPLATFLEET_SIMULATE_FORECAST_", populate_by_name=True)

    trace: Path = Field(description="Rate trace: CSV `timestamp_s,requests`, gzipped or not.")
    horizons: str = Field("600,1800", description="Seconds ahead, with commas; below one bin is one bin.")
    quantile: float = Field(0.9, ge=0.5, lt=1, description="Of the highest demand inside the horizon.")
    bin: float = Field(300.0, gt=0, le=86_400, description="Seconds of a bin; a trace with wider ones keeps its own.")
    json_file: Path | None = Field(None, alias="json", description="Write the rows here.")


def run(settings: ForecastSettings) -> None:
    """Score our forecast of the highest demand ahead, and others', on the second half of a trace.

    Pinball loss is relative to calibrated persistence: below 1 is better. All are calibrated alike.
    """
    from benchmarks.forecast import DAY_S, score
    from simulator import forecasts

    try:
        horizons = [float(part) for part in settings.horizons.split(",")]
        if not horizons or not all(0 < horizon < float("inf") for horizon in horizons):
            raise ValueError
    except ValueError:
        raise UsageError(f"--horizons {settings.horizons!r}: expected seconds with commas, as 600,1800") from None
    trace = load_trace(settings.trace)
    step = max(1, round(settings.bin / trace.bin_s))
    bin_s = trace.bin_s * step
    counts = trace.counts[: trace.counts.size // step * step].reshape(-1, step).sum(axis=1)
    if counts.size * bin_s < 4 * DAY_S:
        raise UsageError(f"--trace {settings.trace}: {counts.size * bin_s / DAY_S:.2g} days, expected at least 4")
    if max(horizons) > counts.size * bin_s / 4:
        most_s = counts.size * bin_s / 4
        raise UsageError(f"--horizons {settings.horizons}: {most_s:.0f} s is the most, a quarter of the trace")
    rows: list[dict[str, Any]] = []
    name = settings.trace.name.partition(".")[0]
    titles = f"{'pinball':>8} {'coverage':>9} {'worst day':>9} {'days near':>9} {'ms/step':>8}"
    click.echo(f"{'method':22} {'horizon':>8} {titles}")
    for asked_s in horizons:
        horizon_s = max(asked_s, bin_s)
        if horizon_s > asked_s:
            click.echo(f"horizon {asked_s:g} s is below one bin: {bin_s:g} s it is", err=True)
        ours = score(name, bin_s, counts, horizon_s, settings.quantile)
        found = [_row("splatfleet", asked_s, ours.pinball_relative, ours)]
        reference = None
        for method in forecasts.METHODS:
            result = forecasts.score(method, counts / bin_s, bin_s, horizon_s, settings.quantile)
            reference = result.loss if reference is None else reference
            found.append(_row(method, asked_s, result.loss / max(reference, 1e-12), result))
        for row in found:
            click.echo(
                f"{row['method']:22} {horizon_s:7.0f}s {row['pinball_relative']:8.2f} {row['coverage']:9.3f}"
                f" {_cell(row['worst_day_coverage'])} {_cell(row['days_near'])} {row['ms_per_step']:8.3f}"
            )
        rows += found
    if settings.json_file is not None:
        settings.json_file.write_text(json.dumps({"rows": rows, "bin_s": bin_s}, indent=1) + "\n")


def _cell(value: float | None) -> str:
    return f"{'–':>9}" if value is None else f"{value:9.2f}"


def _row(method: str, horizon_s: float, relative: float, result: Any) -> dict[str, Any]:
    worst, near = result.worst_day_coverage, result.days_near
    return {
        "method": method,
        "horizon_s": horizon_s,
        "pinball_relative": relative,
        "coverage": result.coverage,
        "worst_day_coverage": worst if np.isfinite(worst) else None,
        "days_near": near if np.isfinite(near) else None,
        "ms_per_step": result.ms_per_step,
    }


COMMAND = verb(
    "forecast",
    ForecastSettings,
    run,
    example="splatfleet simulate forecast --trace rate.csv.gz --horizons 600,1800 --quantile 0.9 --json out.json",
)
