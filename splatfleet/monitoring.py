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
    commands=[verb("rules", RulesSettings, rules, "splatfleet monitoring rules --out rules/")],
    help="Write the recording rules and alerts as files.\n\n\b\nExample:\n  splatfleet monitoring rules --out rules/",
)
