"""`splatfleet bench`: measure a part on this machine and print a table."""

from __future__ import annotations

import json
import os
from pathlib import Path

import click
from pydantic import Field
from pydantic_settings import SettingsConfigDict

from fleet.labels import DATA_ENV
from splatfleet.settings import UsageError, VerbSettings, resolve, verb


class RendererSettings(VerbSettings):
    model_config = SettingsConfigDict(env_prefix="SPLATFLEET_BENCH_RENDERER_", populate_by_name=True)

    scenes: Path | None = Field(
        None, description=f"Folder of the real scenes; else scenes/ under {DATA_ENV} or ../shared."
    )
    frames: int = Field(60, ge=3, description="Views of the orbit a row renders.")
    size: str = Field("512x512", description="Width x height in pixels.")
    threads: list[int] = Field([], description="Numbers of threads to measure; else one and all that are granted.")
    json_file: Path | None = Field(None, alias="json", description="Write the figures here.")


def renderer(settings: RendererSettings) -> None:
    """Frames a second of the CPU rasterizer."""
    from benchmarks import renderer as benchmark
    from splatfleet.render import picture_size

    folder = settings.scenes or Path(os.environ.get(DATA_ENV, "../shared")) / "scenes"
    if settings.scenes is not None and not folder.is_dir():
        raise UsageError(f"--scenes {folder}: no such folder")
    if not folder.is_dir():
        click.echo(f"no real scenes at {folder} (set {DATA_ENV}): a made one only", err=True)
    found = folder if folder.is_dir() else None
    report = benchmark.measure(found, settings.frames, picture_size(settings.size), settings.threads)
    click.echo(benchmark.as_text(report))
    if settings.json_file is not None:
        settings.json_file.write_text(json.dumps(benchmark.as_json(report), indent=1) + "\n")


class PlainSettings(VerbSettings):
    model_config = SettingsConfigDict(env_prefix="SPLATFLEET_BENCH_")

    json_file: Path | None = Field(None, alias="json", description="Write the figures here.")


def exporter(settings: PlainSettings) -> int:
    """Seconds and bytes of a scrape with 20,000 scenes in the node's store."""
    from benchmarks.exporter import main

    return main(settings.json_file)


def extender(settings: PlainSettings) -> None:
    """Milliseconds of filter and prioritize over HTTP at 100, 1,000 and 5,000 nodes."""
    from benchmarks.extender import main

    main(settings.json_file)


def forecast(settings: PlainSettings) -> None:
    """Pinball loss and coverage of the forecast on recorded traffic, beside persistence."""
    from benchmarks.forecast import main

    main(settings.json_file)


class AutoscalerSettings(PlainSettings):
    pools: int = Field(1000, ge=1, le=20_000, description="Pools, each with two weeks of minutes behind it.")
    ticks: int = Field(12, ge=4, description="Ticks that are measured; four make a bin.")


def autoscaler(settings: AutoscalerSettings) -> None:
    """Seconds of CPU and bytes of memory that a tick over many pools takes."""
    from benchmarks.autoscaler import main

    main(settings.pools, settings.ticks, settings.json_file)


def everything(settings: PlainSettings) -> int:
    """Every benchmark, one table each."""
    renderer(resolve(RendererSettings, {}, dict(os.environ)))
    code = exporter(settings)
    extender(settings)
    forecast(settings)
    autoscaler(resolve(AutoscalerSettings, {}, dict(os.environ)))
    return code


COMMAND = click.Group(
    "bench",
    commands=[
        verb("renderer", RendererSettings, renderer, "splatfleet bench renderer --frames 60 --json out.json"),
        verb("exporter", PlainSettings, exporter, "splatfleet bench exporter --json out.json"),
        verb("extender", PlainSettings, extender, "splatfleet bench extender --json out.json"),
        verb("forecast", PlainSettings, forecast, "splatfleet bench forecast --json out.json"),
        verb("autoscaler", AutoscalerSettings, autoscaler, "splatfleet bench autoscaler --pools 1000 --json out.json"),
        verb("all", PlainSettings, everything, "splatfleet bench all"),
    ],
    help="Measure a part on this machine and print a table.\n\n\b\nExample:\n  splatfleet bench renderer",
)
