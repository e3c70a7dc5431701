"""`splatfleet replay`: recorded decisions of the extender or of the autoscaler, made again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
from pydantic import Field
from pydantic_settings import SettingsConfigDict

from splatfleet.settings import UsageError, VerbSettings, verb

MOST_DIFFERENCES = 20


class ReplaySettings(VerbSettings):
    model_config = SettingsConfigDict(env_prefix="SPLATFLEET_REPLAY_", populate_by_name=True)

    file: Path = Field(description="What `extender --decisions` or `autoscaler --decision-log` wrote.")
    pod: str | None = Field(
        None, description="Of the extender: explain the last decision for this NAMESPACE/NAME or UID."
    )
    json_file: Path | None = Field(None, alias="json", description="Write the figures (or the explanation) here.")


def run(settings: ReplaySettings) -> int:
    """Make every recorded decision again and compare it bit for bit; the log says whose it is.

    Ends with 1 where one differs. Another processor or numpy may round the last bit otherwise.
    """
    if _log_of(settings.file) == "autoscaler":
        return _autoscaler(settings)
    from scheduler_extender.explanation import explain
    from scheduler_extender.journal import JournalError, journal_lines, replay

    decisions, differing = 0, 0
    explained: dict[str, Any] | None = None
    try:
        for made in replay(journal_lines(settings.file)):
            decisions += 1
            pod = made.decision.pod
            if settings.pod in (pod.uid, f"{pod.namespace}/{pod.name}"):
                explained = explain(made.decision, made.cluster)
            if made.difference:
                differing += 1
                if differing <= MOST_DIFFERENCES:
                    click.echo(f"line {made.line}: pod {pod.namespace}/{pod.name}: {made.difference}")
    except OSError as error:
        raise UsageError(f"{settings.file}: {error.strerror}") from error
    except JournalError as error:
        raise click.ClickException(f"{settings.file}: {error}") from error
    click.echo(f"{decisions} decisions made again, {decisions - differing} the same bit for bit, {differing} differ")
    figures: dict[str, Any] = {"decisions": decisions, "differing": differing}
    if settings.pod is not None:
        if explained is None:
            raise click.ClickException(f"no decision for pod {settings.pod!r} in {settings.file}")
        from splatfleet.explain import as_text

        click.echo(as_text(explained, most=20))
        figures["explanation"] = explained
    if settings.json_file is not None:
        settings.json_file.write_text(json.dumps(figures, indent=1) + "\n")
    return 1 if differing else 0


def _log_of(file: Path) -> str:
    """Who wrote a log, as its first line says; empty where it does not."""
    try:
        with file.open("rb") as lines:
            first = lines.readline(10_000)
        head = json.loads(first)
    except OSError as error:
        raise UsageError(f"{file}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise click.ClickException(f"{file}: line 1 is {first[:60]!r}, expected the head of a log") from error
    return str(head.get("log", "")) if isinstance(head, dict) else ""


def _autoscaler(settings: ReplaySettings) -> int:
    from autoscaler.decision_log import DecisionLogError, replay

    try:
        with settings.file.open("rb") as lines:
            found = replay(lines)
    except OSError as error:
        raise UsageError(f"{settings.file}: {error.strerror}") from error
    except DecisionLogError as error:
        raise click.ClickException(f"{settings.file}: {error}") from error
    for difference in found.differences[:MOST_DIFFERENCES]:
        click.echo(f"line {difference.line} pool {difference.pool}: {', '.join(difference.fields)} differ")
    same = found.decisions - len(found.differences)
    click.echo(f"{found.ticks} ticks, {same} of {found.decisions} decisions the same bit for bit")
    if settings.json_file is not None:
        figures = {"ticks": found.ticks, "decisions": found.decisions, "differences": len(found.differences)}
        settings.json_file.write_text(json.dumps(figures) + "\n")
    return 1 if found.differences else 0


COMMAND = verb("replay", ReplaySettings, run, "splatfleet replay decisions.jsonl", arguments=["file"])
