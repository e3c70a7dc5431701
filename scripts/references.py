"""Writes the references that are made from code: docs/events.md and docs/cli.md."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from socket import gethostname

import click

from autoscaler.event_catalogue import CATALOGUE
from splatfleet.__main__ import VERBS, main

DOCS = Path(__file__).resolve().parents[1] / "docs"
MADE = "Made by `scripts/references.py`; a test compares the two."


def events() -> str:
    """Every Event, as the text of docs/events.md."""
    rows = [
        f"| `{reason}` | {found.kind} | {found.when} | {found.then or '–'} |" for reason, found in CATALOGUE.items()
    ]
    return "\n".join(
        [
            "# Events",
            "",
            f"On PredictiveAutoscaler resources, from `splatfleet-autoscaler`. {MADE}",
            "The same words within ten minutes raise a count. Renderer pods have Kubernetes' own.",
            "",
            "| reason | type | when | look at |",
            "|---|---|---|---|",
            *rows,
            "",
        ]
    )


def cli() -> str:
    """Every verb with its flags, as the text of docs/cli.md."""
    context = click.Context(main, info_name="splatfleet")
    head = ["# Commands", "", MADE, ""]
    order = "A flag wins over its environment variable, that over the file of `--config`, that over the default."
    return "\n".join([*head, order, "", *(line for name in VERBS for line in _verb(context, name))])


def _verb(context: click.Context, name: str) -> Iterator[str]:
    command = main.get_command(context, name)
    assert command is not None, name
    found = click.Context(command, parent=context, info_name=name)
    if isinstance(command, click.Group):
        yield from (f"## splatfleet {name}", "", f"{VERBS[name]}", "")
        for below in command.list_commands(found):
            part = command.get_command(found, below)
            assert part is not None
            yield from _page(part, f"{name} {below}", 3)
        return
    yield from _page(command, name, 2)


def _page(command: click.Command, name: str, depth: int) -> Iterator[str]:
    yield from ("#" * depth + f" splatfleet {name}", "", (command.help or "").split("\n\n")[0].replace("\n", " "), "")
    given = [parameter for parameter in command.params if isinstance(parameter, click.Argument)]
    if given:
        yield from ("Arguments: " + ", ".join(f"`{found.name}`" for found in given) + ".", "")
    yield from ("| flag | |", "|---|---|")
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            names = ", ".join(f"`{text}`" for text in [*parameter.opts, *parameter.secondary_opts])
            yield f"| {names} | {_text(parameter)} |"
    yield ""


def _text(option: click.Option) -> str:
    choices = f" One of {', '.join(option.type.choices)}." if isinstance(option.type, click.Choice) else ""
    words = (option.help or "").split(" [env: ")
    variable = f" `{words[1].rstrip(']')}`" if len(words) > 1 else ""
    said = words[0].replace(f"[default: {gethostname()}]", "[default: the name of the machine]")
    return f"{said}{choices}{variable}".replace("|", "\\|").replace("<", "&lt;")


if __name__ == "__main__":
    for page, text in (("events.md", events()), ("cli.md", cli())):
        (DOCS / page).write_text(text)
