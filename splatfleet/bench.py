"""`splatfleet bench`: measure a part on this machine and print a table."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Annotated, Literal

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
    frames: int = Field(60, ge=3, le=100_000, description="Views of the orbit a row renders.")
    size: list[str] = Field([], description="Width x height in pixels; else 512x512 and 1280x720.")
    threads: list[Annotated[int, Field(ge=1, le=1024)]] = Field(
        [], description="Numbers of threads to measure; else one and all that are granted."
    )
    gaussians: int = Field(1_000_000, ge=1000, le=20_000_000, description="Of the scene whose loads are measured.")
    json_file: Path | None = Field(None, alias="json", description="Write the figures here.")


def renderer(settings: RendererSettings) -> None:
    """Frames a second, loads by format, store and cache, and what the server adds to a frame."""
    from benchmarks import renderer as benchmark
    from splatfleet.render import picture_size

    folder = settings.scenes or Path(os.environ.get(DATA_ENV, "../shared")) / "scenes"
    if settings.scenes is not None and not folder.is_dir():
        raise UsageError(f"--scenes {folder}: no such folder")
    if not folder.is_dir():
        click.echo(f"no real scenes at {folder} (set {DATA_ENV}): a made one only", err=True)
    sizes = [picture_size(size) for size in settings.size]
    if any(min(size) < 1 or max(size) > 16_384 for size in sizes):
        raise UsageError(f"--size is {', '.join(settings.size)}, expected sides from 1 to 16384 pixels")
    plan = benchmark.Plan(
        folder if folder.is_dir() else None,
        settings.frames,
        sizes or benchmark.SIZES,
        settings.threads,
        settings.gaussians,
    )
    report = benchmark.measure(plan, lambda line: click.echo(line, err=True))
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


class ExtenderSettings(PlainSettings):
    model_config = SettingsConfigDict(env_prefix="SPLATFLEET_BENCH_EXTENDER_")

    nodes: int | None = Field(None, ge=1, le=20_000, description="Nodes in a call; else 100, 420, 1,000 and 5,000.")
    updates_per_s: float = Field(0.0, ge=0, le=1000, description="Node digests that change a second meanwhile.")


def extender(settings: ExtenderSettings) -> None:
    """Milliseconds of filter and prioritize over HTTP, beside a route that does nothing."""
    from benchmarks.extender import main

    main(settings.json_file, settings.nodes, settings.updates_per_s)


def forecast(settings: PlainSettings) -> None:
    """Pinball loss and coverage of the forecast on recorded traffic, beside persistence."""
    from benchmarks.forecast import main

    main(settings.json_file)


class GatewaySettings(VerbSettings):
    model_config = SettingsConfigDict(env_prefix="SPLATFLEET_BENCH_GATEWAY_", populate_by_name=True)

    sessions: int = Field(2000, ge=1, le=50_000, description="Streams that are open at once.")
    json_file: Path | None = Field(None, alias="json", description="Write the figures here.")


def gateway(settings: GatewaySettings) -> int:
    """Many streams at once, open loop: goodput at twice the capacity, a spike, memory."""
    from benchmarks.gateway import main
    from local_fleet.triton_server import TritonUnavailable

    try:
        return main(settings.sessions, settings.json_file)
    except TritonUnavailable as error:
        raise click.ClickException(str(error)) from error


class ScenesSettings(VerbSettings):
    model_config = SettingsConfigDict(env_prefix="SPLATFLEET_BENCH_SCENES_", populate_by_name=True)

    size_mb: list[Annotated[float, Field(gt=0, le=100_000)]] = Field(
        [], description="Scene sizes to measure; else 30 and 1000."
    )
    rounds: int = Field(3, ge=1, le=1000, description="Times that each figure is taken; the median counts.")
    only: list[Literal["fetches", "frames-of-source", "frames-of-packed", "visitors"]] = Field(
        [], description="Measure these alone; repeatable."
    )
    json_file: Path | None = Field(None, alias="json", description="Write the figures here.")


def scenes(settings: ScenesSettings) -> None:
    """Fetch rates from S3 and from a peer beside curl, and seconds to the first frame by where a scene lies."""
    from benchmarks import scenes as benchmark
    from renderer.publish import PublishError
    from renderer.scene_source import SourceError

    try:
        report = benchmark.measure(
            settings.size_mb or [30.0, 1000.0], settings.rounds, settings.only or benchmark.PARTS
        )
    except (RuntimeError, OSError, SourceError, PublishError) as error:
        raise click.ClickException(str(error)) from error
    click.echo(benchmark.as_text(report))
    if settings.json_file is not None:
        settings.json_file.write_text(json.dumps(benchmark.as_json(report), indent=1) + "\n")


class CacheSettings(PlainSettings):
    model_config = SettingsConfigDict(env_prefix="SPLATFLEET_BENCH_CACHE_", populate_by_name=True)

    traces: Path | None = Field(None, description=f"Folder of the traces; else traces/ under {DATA_ENV} or ../shared.")


def cache(settings: CacheSettings) -> None:
    """Misses of the scene cache's policy beside GDSF, S3-FIFO and a clairvoyant one on recorded popularity."""
    from benchmarks.cache import main

    folder = settings.traces or Path(os.environ.get(DATA_ENV, "../shared")) / "traces"
    try:
        main(folder, lambda line: click.echo(line, err=True), settings.json_file)
    except OSError as error:
        raise UsageError(f"--traces {folder}: {error.strerror}: {error.filename}") from error


class LargeSceneSettings(PlainSettings):
    model_config = SettingsConfigDict(env_prefix="SPLATFLEET_BENCH_LARGE_SCENE_", populate_by_name=True)

    gaussians: int = Field(5_000_000, ge=1000, le=5_000_000, description="Of the made scene, SH degree 3.")


def large_scene(settings: LargeSceneSettings) -> int:
    """A scene of over a gigabyte from its source to a frame: seconds, and the most memory the pod takes."""
    from benchmarks.large_scene import main
    from local_fleet.triton_server import TritonUnavailable

    try:
        return main(settings.gaussians, lambda line: click.echo(line, err=True), settings.json_file)
    except TritonUnavailable as error:
        raise click.ClickException(str(error)) from error


class AutoscalerSettings(PlainSettings):
    pools: int = Field(1000, ge=1, le=20_000, description="Pools, each with two weeks of minutes behind it.")
    ticks: int = Field(12, ge=4, le=100_000, description="Ticks that are measured; four make a bin.")


def autoscaler(settings: AutoscalerSettings) -> None:
    """Seconds of CPU and bytes of memory that a tick over many pools takes."""
    from benchmarks.autoscaler import main

    main(settings.pools, settings.ticks, settings.json_file, lambda line: click.echo(line, err=True))


class KubernetesSettings(PlainSettings):
    model_config = SettingsConfigDict(env_prefix="SPLATFLEET_BENCH_KUBERNETES_")

    nodes: int = Field(1000, ge=1, le=5000, description="Emulated nodes, seven slices each.")
    pods: int = Field(2000, ge=10, le=20_000, description="Pods in the queue of each run; every one asks for a slice.")
    rounds: int = Field(3, ge=1, le=1000, description="Times that each setup is measured, in turn; the median counts.")


def kubernetes(settings: KubernetesSettings) -> None:
    """Pods a second of the real kube-scheduler: alone, with an extender that does nothing, and with ours."""
    from benchmarks.kubernetes import main
    from local_fleet.control_plane.binaries import BinariesError
    from local_fleet.control_plane.plane import ControlPlaneError

    if settings.pods > 7 * settings.nodes:
        raise UsageError(f"--pods {settings.pods}: {settings.nodes} nodes have {7 * settings.nodes} slices")
    try:
        main(settings.nodes, settings.pods, settings.rounds, settings.json_file)
    except (BinariesError, ControlPlaneError, RuntimeError) as error:
        raise click.ClickException(str(error)) from error


def everything(settings: PlainSettings) -> int:
    """Every benchmark, one table each."""
    renderer(resolve(RendererSettings, {}, dict(os.environ)))
    code = exporter(settings)
    extender(resolve(ExtenderSettings, {}, dict(os.environ)))
    forecast(settings)
    scenes(resolve(ScenesSettings, {}, dict(os.environ)))
    autoscaler(resolve(AutoscalerSettings, {}, dict(os.environ)))
    return code


@click.pass_context
def _end_cleanly(context: click.Context) -> None:
    """Let SIGTERM unwind as Ctrl-C does, so that temporary folders and servers go with it."""
    before = signal.signal(signal.SIGTERM, lambda number, _frame: sys.exit(128 + number))
    context.call_on_close(lambda: signal.signal(signal.SIGTERM, before))


COMMAND = click.Group(
    "bench",
    callback=_end_cleanly,
    commands=[
        verb("renderer", RendererSettings, renderer, "splatfleet bench renderer --frames 60 --json out.json"),
        verb("exporter", PlainSettings, exporter, "splatfleet bench exporter --json out.json"),
        verb("extender", ExtenderSettings, extender, "splatfleet bench extender --nodes 1000 --json out.json"),
        verb("forecast", PlainSettings, forecast, "splatfleet bench forecast --json out.json"),
        verb("gateway", GatewaySettings, gateway, "splatfleet bench gateway --sessions 2000 --json out.json"),
        verb("cache", CacheSettings, cache, "splatfleet bench cache --json out.json"),
        verb("large-scene", LargeSceneSettings, large_scene, "splatfleet bench large-scene --json out.json"),
        verb("scenes", ScenesSettings, scenes, "splatfleet bench scenes --size-mb 30 --json out.json"),
        verb("autoscaler", AutoscalerSettings, autoscaler, "splatfleet bench autoscaler --pools 1000 --json out.json"),
        verb(
            "kubernetes",
            KubernetesSettings,
            kubernetes,
            "splatfleet bench kubernetes --nodes 1000 --pods 2000 --json out.json",
        ),
        verb("all", PlainSettings, everything, "splatfleet bench all"),
    ],
    help="Measure a part on this machine and print a table.\n\n\b\nExample:\n  splatfleet bench renderer",
)
