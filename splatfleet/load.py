"""`splatfleet load`: variable traffic against a gateway, and its score."""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import signal
import time
import urllib.request
from collections.abc import Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click
from pydantic import Field
from pydantic_settings import SettingsConfigDict

from splatfleet.addresses import check_url
from splatfleet.settings import DAY_S, WRITES_FILE, WRITES_FOLDER, UsageError, VerbSettings, verb

if TYPE_CHECKING:
    from fleet.traffic import RateTrace
    from local_fleet.load import LoadPlan, LoadSummary
    from local_fleet.orbits import Orbit


class LoadSettings(VerbSettings):
    model_config = SettingsConfigDict(env_prefix="SPLATFLEET_LOAD_", populate_by_name=True)

    gateway: str = Field("http://127.0.0.1:8080", description="URL of the gateway.")
    trace: Path | None = Field(
        None, description="Rate trace (CSV timestamp_s,requests; .gz too); its last days are played."
    )
    shape: Literal["day", "flat"] = Field("day", description="Built-in traffic where no trace is given.")
    scenes: str | None = Field(
        None, description="Scene ids, comma-separated; else those the catalogue or gateway names."
    )
    catalogue: Path | None = Field(None, description="Catalogue with the scenes and their default cameras.")
    duration: float = Field(60.0, gt=0, le=30 * DAY_S, description="Seconds of traffic.")
    seconds_per_day: float = Field(
        40.0, gt=0, le=100 * DAY_S, description="Real seconds for a day of the trace; 86400 is as it was."
    )
    mean_rate: float = Field(5.0, gt=0, le=100_000, description="Mean requests a second over the run.")
    zipf: float = Field(1.0, ge=0, le=20, description="Exponent of the popularity of scenes; 0 is uniform.")
    size: str = Field("256x256", description="WIDTHxHEIGHT of the frames in pixels.")
    format: Literal["jpeg", "png", "webp", "raw"] = Field("jpeg", description="Image format to ask for.")
    quality: int | None = Field(None, ge=1, le=100, description="Quality to ask for; the renderer's own where absent.")
    pool: str | None = Field(None, description="Pool to ask; the gateway's first where absent.")
    deadline_s: float | None = Field(None, gt=0, le=DAY_S, description="Deadline told to the gateway.")
    timeout_s: float = Field(60.0, gt=0, le=DAY_S, description="Seconds after which the client gives a request up.")
    max_open: int = Field(1000, ge=1, le=1_000_000, description="Open requests beyond which a request fails at once.")
    seed: int = Field(0, ge=0, description="Fixes arrivals and scenes.")
    start_at: float | None = Field(
        None, ge=0, description="Unix time of the run's zero, at most a day ahead; now where absent."
    )
    json_file: Path | None = Field(None, alias="json", description="Write the summary here.")
    records: Path | None = Field(None, description="Write one JSON line a request here.", json_schema_extra=WRITES_FILE)
    frames: Path | None = Field(None, description="Folder for sample frames.", json_schema_extra=WRITES_FOLDER)
    frame_every: int = Field(50, ge=1, description="Keep every so-manieth frame.")


def parse_size(text: str) -> tuple[int, int]:
    """`WIDTHxHEIGHT` as a pair of pixels; raises UsageError."""
    width, x, height = text.lower().partition("x")
    digits = width.isdecimal() and height.isdecimal() and len(text) < 24
    if not (x and digits and int(width) and int(height)):
        raise UsageError(f"--size: {text!r} is no size, expected WIDTHxHEIGHT (example: 256x256)")
    return int(width), int(height)


def make_traffic(settings: LoadSettings) -> RateTrace:
    """The rates that the settings describe, over the time of the run; raises UsageError."""
    from fleet.traffic import TraceError, day_shape, fill_gaps, flat, replay_days
    from local_fleet.replay import read_trace

    days = settings.duration / settings.seconds_per_day
    try:
        if settings.trace is None and settings.shape == "flat":
            return flat(settings.duration, settings.mean_rate)
        if settings.trace is not None:
            whole = fill_gaps(read_trace(settings.trace))
        else:
            whole = day_shape(math.ceil(days), seed=settings.seed)
        return replay_days(whole, days, settings.seconds_per_day, settings.mean_rate).traffic
    except (OSError, EOFError, UnicodeDecodeError, TraceError) as error:
        raise UsageError(f"--trace {settings.trace}: {error}") from error
    except (ValueError, ZeroDivisionError) as error:
        where = f"--duration {settings.duration:g} with --seconds-per-day {settings.seconds_per_day:g}"
        raise UsageError(f"{where}: {error}") from error


def make_plan(settings: LoadSettings) -> LoadPlan:
    """Who asks for what when; raises UsageError, and ClickException where the gateway does not answer."""
    from fleet.traffic import arrivals, zipf_scenes
    from local_fleet.load import LoadPlan

    size, traffic, orbits = parse_size(settings.size), make_traffic(settings), find_orbits(settings)
    times_s = arrivals(traffic.rates_per_s, traffic.bin_s, settings.seed)
    return LoadPlan(
        arrivals_s=times_s,
        scenes=zipf_scenes(len(orbits), settings.zipf, len(times_s), settings.seed),
        orbits=orbits,
        size=size,
        format=settings.format,
        quality=settings.quality,
        pool=settings.pool,
        deadline_s=settings.deadline_s,
    )


def find_orbits(settings: LoadSettings) -> tuple[Orbit, ...]:
    """The scenes to ask for: those named, of the catalogue, or of the gateway; raises UsageError."""
    from fleet.scene import SceneId, SceneIdError, parse_scene_ids
    from local_fleet.orbits import Orbit, orbit_of, orbits_of_status
    from renderer.catalogue import CatalogueError, load_catalogue

    try:
        named = parse_scene_ids(settings.scenes or "")
        catalogue = load_catalogue(settings.catalogue).entries if settings.catalogue else None
    except (CatalogueError, SceneIdError) as error:
        raise UsageError(str(error)) from error
    status = ask_gateway(settings.gateway)
    orbits = orbits_of_status(status) if catalogue is None else map(orbit_of, catalogue.values())
    known = {orbit.scene: orbit for orbit in orbits}
    named = named or tuple(map(SceneId, known))
    if not named:
        raise UsageError("no scene to ask for: give --scenes id,id or --catalogue FILE, the gateway names none")
    return tuple(known.get(scene) or Orbit(scene) for scene in named)


def ask_gateway(url: str) -> dict[str, Any]:
    """What `/v1/status` says; raises ClickException where nobody answers."""
    try:
        with urllib.request.urlopen(url.rstrip("/") + "/v1/status", timeout=5.0) as answer:
            status: dict[str, Any] = json.load(answer)
            return status
    except (OSError, ValueError) as error:
        raise click.ClickException(f"--gateway {url}: no gateway answers there ({error})") from error


async def _until_told(run: Coroutine[Any, Any, object]) -> None:
    """Run it; SIGTERM ends it early, as Ctrl-C does, and what was answered until then is scored."""
    task = asyncio.ensure_future(run)
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    await task


def _ms(seconds: float) -> str:
    return "–" if math.isnan(seconds) else f"{seconds * 1000:.0f} ms"


def show(summary: LoadSummary) -> str:
    """The summary as two lines for people."""
    return (
        f"{summary.requests} requests, {summary.frames} frames, {summary.violations} violations "
        f"({summary.violation_ratio:.1%}), {summary.refused} refused, {summary.deadlines} too late, "
        f"{summary.errors} errors, {summary.cold_requests} cold\n"
        f"wait p50 {_ms(summary.wait_p50_s)}, p99 {_ms(summary.wait_p99_s)}; "
        f"frame p50 {_ms(summary.frame_p50_s)}, p99 {_ms(summary.frame_p99_s)}; "
        f"service p50 {_ms(summary.service_p50_s)}; {summary.bytes_received / 1e6:.1f} MB"
    )


def _monotonic_s(unix_s: float | None) -> float | None:
    return None if unix_s is None else time.monotonic() + unix_s - time.time()


def run(settings: LoadSettings) -> int | None:
    """Send variable traffic to a gateway, open loop, and score the answers."""
    import msgspec

    from local_fleet.load import LoadClient, LoadLimits, Saving, summarize, write_records

    check_url(settings.gateway, "--gateway")
    if settings.start_at is not None and settings.start_at > time.time() + DAY_S:
        raise UsageError(
            f"--start-at {settings.start_at:g}: is more than a day ahead, expected the Unix time of a start"
        )
    plan = make_plan(settings)
    if not len(plan.arrivals_s):
        raise UsageError("--mean-rate and --duration make no request at all, raise one of them")
    saving = None
    if settings.frames is not None:
        settings.frames.mkdir(parents=True, exist_ok=True)
        saving = Saving(settings.frames, settings.frame_every)
    limits = LoadLimits(settings.max_open, settings.timeout_s)
    client = LoadClient(settings.gateway, plan, limits, saving)
    with contextlib.suppress(KeyboardInterrupt, asyncio.CancelledError):
        asyncio.run(_until_told(client.run(_monotonic_s(settings.start_at))))
    if not client.records:
        raise click.ClickException("interrupted before the first answer")
    summary = summarize(client.records)
    if settings.records is not None:
        with settings.records.open("w") as file:
            write_records(client.records, file)
    if settings.json_file is not None:
        settings.json_file.write_bytes(msgspec.json.format(msgspec.json.encode(summary)) + b"\n")
    click.echo(show(summary))
    first = next((record for record in client.records if record.error), None)
    if first is not None:
        click.echo(f"first of the failed, scene {first.scene}: {first.status or 'no answer'} {first.error}", err=True)
    return 0 if summary.frames else 1


COMMAND = verb(
    "load",
    LoadSettings,
    run,
    "splatfleet load --gateway http://127.0.0.1:8080 --shape day --duration 60 --mean-rate 5 --size 256x256 --seed 1",
)
