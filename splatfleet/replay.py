"""`splatfleet replay`: decide again what a decision log says was decided, and compare every bit."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import click
from pydantic import Field
from pydantic_settings import SettingsConfigDict

from splatfleet.settings import UsageError, VerbSettings, verb


class ReplaySettings(VerbSettings):
    model_config = SettingsConfigDict(env_prefix="SPLATFLEET_REPLAY_", populate_by_name=True)

    log: Path = Field(description="Decision log, as `splatfleet autoscaler --decision-log` writes it.")
    json_file: Path | None = Field(None, alias="json", description="Write the figures here.")


def run(settings: ReplaySettings) -> int:
    """Decide again what a decision log says was decided.

    Every observation in the log is put to the same code; a decision that differs in any bit is printed and ends in
    exit code 1. The first line of a log says which component wrote it.
    """
    if not settings.log.is_file():
        raise UsageError(f"{settings.log}: no such file")
    with settings.log.open() as lines:
        head = lines.readline(10_000)
    try:
        kind = json.loads(head)["log"]
        again = REPLAYS[kind]
    except (ValueError, KeyError, TypeError) as error:
        raise click.ClickException(f"{settings.log}: line 1 is {head[:60]!r}, expected the head of a log") from error
    return again(settings)


def _autoscaler(settings: ReplaySettings) -> int:
    from autoscaler.decision_log import DecisionLogError, replay

    try:
        with settings.log.open() as lines:
            found = replay(lines)
    except DecisionLogError as error:
        raise click.ClickException(f"{settings.log}: {error}") from error
    for difference in found.differences[:20]:
        click.echo(f"line {difference.line} pool {difference.pool}: {', '.join(difference.fields)} differ")
    same = found.decisions - len(found.differences)
    click.echo(f"{found.ticks} ticks, {same} of {found.decisions} decisions the same bit for bit")
    if settings.json_file is not None:
        figures = {"ticks": found.ticks, "decisions": found.decisions, "differences": len(found.differences)}
        settings.json_file.write_text(json.dumps(figures) + "\n")
    return 1 if found.differences else 0


# Kind in the first line of a log -> its replay.
REPLAYS: dict[str, Callable[[ReplaySettings], int]] = {"autoscaler": _autoscaler}


COMMAND = verb("replay", ReplaySettings, run, example="splatfleet replay decisions.jsonl", arguments=["log"])
