"""`splatfleet demo`: a fleet of real Triton pods on this machine, to its scorecard."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Literal

import click
from pydantic import Field
from pydantic_settings import SettingsConfigDict

from splatfleet.settings import WRITES_FOLDER, UsageError, VerbSettings, verb


class DemoVerbSettings(VerbSettings):
    model_config = SettingsConfigDict(env_prefix="SPLATFLEET_DEMO_", populate_by_name=True)

    scenes: Path | None = Field(
        None, description="Folder of splat scenes; ids from its manifest.json, else from the path. Absent: made here."
    )
    all: bool = Field(False, description="Scenes below 1,000 Gaussians too.")
    trace: Path | None = Field(
        None, description="Rate trace (CSV timestamp_s,requests; .gz too): its last three days are played."
    )
    duration: float = Field(120.0, ge=15, le=3600, description="Seconds for the three days; 40 s a day at 120.")
    kubernetes: bool = Field(
        False, description="Under a real kube-apiserver, scheduler and controller-manager on this machine."
    )
    autoscaler: Literal["predictive", "reactive", "hpa"] = Field(
        "predictive",
        description="Reactive is the same policy without its forecast; hpa (--kubernetes) is Kubernetes' own.",
    )
    placement: Literal["scenes", "spread", "default"] = Field(
        "scenes",
        description="Ask the scheduler extender, or put each pod on the emptiest node; "
        "default (--kubernetes) is kube-scheduler alone.",
    )
    warm_up: Literal["on", "off"] = Field(
        "on", description="Carry out the autoscaler's asks to have scenes on disks and in memory ahead of need."
    )
    visit_lead_seconds: float = Field(
        60.0,
        ge=0,
        le=600,
        description="The first visitor of a new scene is predicted so long before; 0: no such visit. "
        "The local demo's alone: with --kubernetes it is refused.",
    )
    seed: int = Field(1, ge=0, description="Fixes made scenes, arrivals and popularity: runs differ in policy alone.")
    rate: float = Field(25.0, gt=0, le=500, description="Mean requests a second, less where the machine is too slow.")
    frame_seconds: float = Field(
        0.15, gt=0, le=5, description="How long a frame keeps a slice busy at least: it stands for the slice's speed."
    )
    provision_seconds: float = Field(3.0, ge=0, le=600, description="What a node and an image take before a pod boots.")
    fetch_mb_per_s: float = Field(4.0, gt=0, le=1e9, description="Bandwidth of a node to the object store.")
    report: Path | None = Field(
        None, description="Folder for report.html, its plots and the sheet of frames.", json_schema_extra=WRITES_FOLDER
    )
    json_file: Path | None = Field(None, alias="json", description="Write the scorecard here.")
    compare: Path | None = Field(None, description="Scorecard of another run (its --json), shown beside this one.")
    quiet_wait_seconds: float = Field(
        30.0, ge=0, le=3600, description="Wait at most so long for other programs to leave this machine's CPU alone."
    )
    keep: bool = Field(False, description="Keep the run's folder with logs, stores and records.")


def run(settings: DemoVerbSettings) -> int:
    """Run a fleet of real Triton pods on this machine, scaled and placed by our own cores, to its scorecard.

    Three nodes with an exporter each, a gateway, the scheduler extender and the autoscaler; three days of traffic are
    replayed over splat scenes.
    """
    for name in ("scenes", "trace", "compare"):
        path = getattr(settings, name)
        if path is not None and not path.exists():
            raise UsageError(f"--{name} {path}: no such {'folder' if name == 'scenes' else 'file'}")
    _check_kubernetes(settings)
    from local_fleet.demo import DemoFailed, play
    from local_fleet.demo_settings import DemoSettings

    wanted = DemoSettings(
        scenes=settings.scenes,
        include_all=settings.all,
        trace=settings.trace,
        duration_s=settings.duration,
        kubernetes=settings.kubernetes,
        autoscaler=settings.autoscaler,
        placement=settings.placement,
        warm_up=settings.warm_up,
        visit_lead_s=settings.visit_lead_seconds,
        seed=settings.seed,
        mean_rate_per_s=settings.rate,
        frame_floor_s=settings.frame_seconds,
        provision_s=settings.provision_seconds,
        fetch_bytes_per_s=settings.fetch_mb_per_s * 1e6,
        report=settings.report,
        json_file=settings.json_file,
        compare=settings.compare,
        keep=settings.keep,
        quiet_wait_s=settings.quiet_wait_seconds,
    )
    signal.signal(signal.SIGTERM, _terminate)
    try:
        play(wanted)
    except DemoFailed as error:
        raise click.ClickException(str(error)) from error
    except KeyboardInterrupt as asked:
        click.echo("interrupted; every process of the demo has ended", err=True)
        return 143 if isinstance(asked, _Terminated) else 130
    return 0


def _check_kubernetes(settings: DemoVerbSettings) -> None:
    """Raises UsageError for what only one of the two demos has, and builds the control plane where it is missing."""
    alone = {"--autoscaler hpa": settings.autoscaler == "hpa", "--placement default": settings.placement == "default"}
    if not settings.kubernetes:
        for flag, given in alone.items():
            if given:
                raise UsageError(f"{flag}: needs --kubernetes, which brings what Kubernetes does alone")
        return
    if settings.placement == "spread":
        raise UsageError("--placement spread: with --kubernetes it is scenes or default (kube-scheduler alone)")
    lead_s = settings.visit_lead_seconds
    if lead_s > 0 and "visit_lead_seconds" in settings.model_fields_set:
        raise UsageError(f"--visit-lead-seconds {lead_s:g}: the local demo's alone; with --kubernetes leave it out")
    from local_fleet.control_plane.binaries import BinariesError, find

    try:
        find()
    except BinariesError:
        from local_fleet.control_plane.build import build

        try:
            build()
        except BinariesError as error:
            raise click.ClickException(str(error)) from error


class _Terminated(KeyboardInterrupt):
    """SIGTERM: ends like Ctrl-C, with its own exit code."""


def _terminate(*_: object) -> None:
    raise _Terminated


COMMAND = verb(
    "demo",
    DemoVerbSettings,
    run,
    """
splatfleet demo
splatfleet demo --scenes scenes/ --trace traffic.csv.gz --duration 120 --json out.json --report out/
splatfleet demo --autoscaler reactive --placement spread --compare out.json
splatfleet demo --kubernetes --json ours.json
splatfleet demo --kubernetes --autoscaler hpa --placement default --compare ours.json
""",
)
