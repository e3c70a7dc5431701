"""`splatfleet monitoring`: the recording rules, alerts and dashboards as files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import click
from pydantic import Field
from pydantic_settings import SettingsConfigDict

from splatfleet.settings import VerbSettings, verb


class RulesSettings(VerbSettings):
    model_config = SettingsConfigDict(env_prefix="SPLATFLEET_MONITORING_RULES_")

    out: Path = Field(description="Folder to write the rule files into.")


def rules(settings: RulesSettings) -> None:
    """Write the recording rules and alerts for Prometheus' `rule_files`."""
    from monitoring.rules import rule_files

    _write(settings.out, rule_files())


class DashboardsSettings(VerbSettings):
    model_config = SettingsConfigDict(env_prefix="SPLATFLEET_MONITORING_DASHBOARDS_")

    out: Path = Field(description="Folder to write the dashboards into.")


def dashboards(settings: DashboardsSettings) -> None:
    """Write the dashboards as JSON for Grafana (needs grafana-foundation-sdk, of the extra dev)."""
    from monitoring.grafana import dashboards as made

    _write(settings.out, made())


def _write(folder: Path, files: Mapping[str, str]) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            (folder / name).write_text(text)
    except OSError as error:
        raise click.ClickException(f"--out {folder}: {error.strerror}: {error.filename}") from error
    click.echo(f"{folder}: {', '.join(files)}")


COMMAND = click.Group(
    "monitoring",
    commands=[
        verb("rules", RulesSettings, rules, "splatfleet monitoring rules --out rules/"),
        verb("dashboards", DashboardsSettings, dashboards, "splatfleet monitoring dashboards --out dashboards/"),
    ],
    help="Write recording rules, alerts and dashboards as files.\n\n\b\n"
    "Example:\n  splatfleet monitoring rules --out rules/",
)
