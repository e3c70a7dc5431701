"""`splatfleet simulate`: the decisions of the cores over traffic; each sub-verb has its own module."""

from __future__ import annotations

import importlib

import click

SUB_VERBS: dict[str, str] = {
    "placement": "Place pods on MIG GPUs and scene caches, beside other schedulers' rules.",
}


class SubVerbs(click.Group):
    """Sub-verbs; `NAME` lives in `splatfleet.simulate_NAME`."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(SUB_VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in SUB_VERBS:
            return None
        command: click.Command = importlib.import_module(f"splatfleet.simulate_{cmd_name}").COMMAND
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Simulations"):
            formatter.write_dl(list(SUB_VERBS.items()))


COMMAND = SubVerbs(
    "simulate",
    help="Play the decisions of our cores over traffic, without a fleet.\n\n\b\nExample:\n"
    "  splatfleet simulate placement --mix small --cache-gb 15",
)
