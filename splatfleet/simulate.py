"""`splatfleet simulate`: the same decisions over recorded traffic; each kind is imported when it is asked for."""

from __future__ import annotations

import importlib

import click

KINDS: dict[str, str] = {
    "scaling": "Our autoscaler and its rivals over a rate trace: violations, cost, stability.",
    "placement": "Our placement and other schedulers' rules on MIG GPUs and scene caches.",
    "forecast": "Our forecast and its rivals over a rate trace: pinball loss and coverage.",
}


class Kinds(click.Group):
    """The kinds of simulation; each lives in the module `simulate_<kind>`."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(KINDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in KINDS:
            return None
        command: click.Command = importlib.import_module(f"splatfleet.simulate_{cmd_name}").COMMAND
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Kinds"):
            formatter.write_dl(list(KINDS.items()))


COMMAND = Kinds(
    "simulate",
    help="Play recorded traffic against our decisions and others'.\n\n\b\nExample:\n"
    "  splatfleet simulate scaling --trace rate.csv.gz --policies splatfleet,keda",
)
