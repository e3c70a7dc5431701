"""`splatfleet pause`: hold the count of a pool by hand, for a while or until `splatfleet resume`."""

from __future__ import annotations

import time
from typing import Any

import click
from pydantic import Field
from pydantic_settings import SettingsConfigDict

from fleet.labels import PAUSED_ANNOTATION, PAUSED_SCALE_DOWN_ANNOTATION
from splatfleet.kubectl import ClusterSettings, connect, duration
from splatfleet.settings import UsageError, verb

_UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


class PauseSettings(ClusterSettings):
    model_config = SettingsConfigDict(env_prefix="SPLATFLEET_PAUSE_", populate_by_name=True)

    name: str = Field(description="Name of a PredictiveAutoscaler.")
    for_: str | None = Field(None, alias="for", description="How long, as 90s, 30m, 2h or 1d; until resume without it.")
    scale_down: bool = Field(False, description="Hold the way down alone; more pods may still come.")


def parse_duration(text: str) -> float:
    """Seconds of `90s`, `30m`, `2h` or `1d`; raises UsageError."""
    number, unit = text[:-1], text[-1:]
    if unit not in _UNITS_S or not number.isdecimal() or len(number) > 12 or int(number) == 0:
        raise UsageError(f"--for {text!r}: expected a time as 90s, 30m, 2h or 1d")
    from autoscaler.resource import FOREVER_S

    seconds = float(number) * _UNITS_S[unit]
    if time.time() + seconds >= FOREVER_S:
        raise UsageError(f"--for {text!r}: ends after the year 2100; leave it out to hold until `splatfleet resume`")
    return seconds


def run(settings: PauseSettings) -> None:
    """Hold the count of a pool; it is decided and reported meanwhile, and not changed."""
    if settings.scale_down and settings.for_ is not None:
        raise UsageError("--for: the way down is held until `splatfleet resume`")
    from autoscaler.resource import format_time

    value, until = "true", "until `splatfleet resume`"
    if settings.for_ is not None:
        seconds = parse_duration(settings.for_)
        value = format_time(time.time() + seconds)
        until = f"for {duration(seconds)}, until {value}"
    what = "scale-down paused" if settings.scale_down else "paused"
    annotation = PAUSED_SCALE_DOWN_ANNOTATION if settings.scale_down else PAUSED_ANNOTATION
    name = set_annotations(settings, settings.name, {annotation: value})
    click.echo(f"predictiveautoscaler.splatfleet.io/{name} {what} {until}")


def set_annotations(settings: ClusterSettings, name: str, annotations: dict[str, Any]) -> str:
    """Set annotations of a PredictiveAutoscaler, remove those that are None; raises ClickException."""
    from kube.errors import KubeError
    from kube.objects import PREDICTIVE_AUTOSCALERS
    from kube.writes import annotate

    if "/" in name or not name:
        raise UsageError(f"name {name!r}: expected the name of a PredictiveAutoscaler")
    connection = connect(settings)
    try:
        annotate(connection, PREDICTIVE_AUTOSCALERS, name, settings.namespace or connection.namespace, annotations)
    except KubeError as error:
        raise click.ClickException(f"{connection.host}: {error}") from error
    return name


COMMAND = verb(
    "pause",
    PauseSettings,
    run,
    "splatfleet pause renderer -n splats --for 2h\nsplatfleet pause renderer --scale-down",
    arguments=["name"],
)
