"""`splatfleet metrics`: the catalogue of fleet.metrics as a table, as Markdown or as JSON."""

from __future__ import annotations

import dataclasses
import json
from typing import Literal

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from fleet.metrics import CATALOGUE
from splatfleet.settings import VerbSettings, verb


class MetricsSettings(VerbSettings):
    model_config = SettingsConfigDict(env_prefix="SPLATFLEET_METRICS_")

    format: Literal["markdown", "json"] = Field("markdown", description="How to print the catalogue.")


def markdown() -> str:
    """The catalogue as the text of docs/metrics.md."""
    rows = [
        f"| `{m.name}` | {m.kind} | {', '.join(m.labels) or '–'} | {m.help} | {', '.join(m.read_by) or '–'} |"
        for m in CATALOGUE.values()
    ]
    head = ["| metric | type | labels | meaning | read by |", "|---|---|---|---|---|"]
    return "# Metrics\n\nMade by `splatfleet metrics`; a test compares the two.\n\n" + "\n".join(head + rows) + "\n"


def run(settings: MetricsSettings) -> None:
    """List every metric that Splatfleet writes."""
    if settings.format == "json":
        print(json.dumps([dataclasses.asdict(metric) for metric in CATALOGUE.values()], indent=1))
    else:
        print(markdown(), end="")


COMMAND = verb("metrics", MetricsSettings, run, "splatfleet metrics --format json")
