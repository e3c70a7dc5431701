"""`splatfleet replay`: the extender's recorded decisions, made again."""

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

    file: Path = Field(description="What `splatfleet extender --decisions` wrote.")
    pod: str | None = Field(None, description="Explain the last decision for this NAMESPACE/NAME or UID, whole.")
    json_file: Path | None = Field(None, alias="json", description="Write the figures (or the explanation) here.")


def run(settings: ReplaySettings) -> int:
    """Make every recorded decision of the extender again and compare it bit for bit.

    Ends with 1 where one differs. Another processor or numpy may round the last bit otherwise.
    """
    from scheduler_extender.explanation import explain
    from scheduler_extender.journal import JournalError, replay

    decisions, differing = 0, 0
    explained: dict[str, Any] | None = None
    try:
        with settings.file.open("rb") as lines:
            for made in replay(lines):
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


COMMAND = verb("replay", ReplaySettings, run, "splatfleet replay decisions.jsonl", arguments=["file"])
