"""`splatfleet resume`: end what `splatfleet pause` began."""

from __future__ import annotations

import click
from pydantic import Field
from pydantic_settings import SettingsConfigDict

from fleet.labels import PAUSED_ANNOTATION, PAUSED_SCALE_DOWN_ANNOTATION
from splatfleet.kubectl import ClusterSettings
from splatfleet.pause import set_annotations
from splatfleet.settings import verb


class ResumeSettings(ClusterSettings):
    model_config = SettingsConfigDict(env_prefix="SPLATFLEET_RESUME_", populate_by_name=True)

    name: str = Field(description="Name of a PredictiveAutoscaler.")


def run(settings: ResumeSettings) -> None:
    """End every pause of a pool that was made by `splatfleet pause`; spec.mode and spec.overrides stay."""
    nothing = dict.fromkeys((PAUSED_ANNOTATION, PAUSED_SCALE_DOWN_ANNOTATION))
    name = set_annotations(settings, settings.name, nothing)
    click.echo(f"predictiveautoscaler.splatfleet.io/{name} resumed")


COMMAND = verb("resume", ResumeSettings, run, "splatfleet resume renderer -n splats", arguments=["name"])
