"""`splatfleet VERB`: verbs are imported when they are asked for, so that each needs its own extra only."""

from __future__ import annotations

import importlib
import sys

import click

VERBS: dict[str, str] = {
    "demo": "A fleet of real Triton pods on this machine, scaled and placed by our own cores, to its scorecard.",
    "render": "Render one picture of a scene file.",
    "scene": "Look into, convert, check, make or publish scene files.",
    "triton": "Start one real renderer server (Triton) on this machine.",
    "probe": "Ask a renderer for a tiny frame: the only liveness that a dead stub cannot fake.",
    "gateway": "Route frame requests to the pods that hold their scenes.",
    "load": "Send variable traffic to a gateway and score the answers.",
    "exporter": "Serve Triton, scene-cache and GPU metrics and the node digest.",
    "scene-agent": "Bring scenes to a node before they are asked for, and serve them to other nodes.",
    "extender": "Answer kube-scheduler's filter and prioritize calls.",
    "scheduler-config": "Make or check the KubeSchedulerConfiguration that asks the extender.",
    "explain": "Say why a pod went where it went, or a pool has the count that it has.",
    "autoscaler": "Forecast demand and decide replicas, for the pools of a cluster or in Shadow mode.",
    "get": "List autoscalers, renderer pods and GPU nodes of a cluster, as kubectl does.",
    "describe": "Show one autoscaler of a cluster with its conditions and Events.",
    "pause": "Hold the count of a pool by hand.",
    "resume": "End what `pause` began.",
    "top": "Watch pools and GPU nodes of a cluster, live.",
    "doctor": "Check an installation on a cluster, and say the fix for what is wrong.",
    "simulate": "Play recorded traffic against our decisions and others'.",
    "backtest": "What the autoscaler would have done on your own Prometheus history.",
    "replay": "Decide again what a decision log says was decided, bit for bit.",
    "monitoring": "Write recording rules, alerts and dashboards for Prometheus and Grafana.",
    "metrics": "List every metric that Splatfleet writes.",
    "bench": "Measure a part on this machine and print a table.",
}


class Verbs(click.Group):
    """The group of verbs; each lives in the module of its name."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in VERBS:
            return None
        name = f"splatfleet.{cmd_name.replace('-', '_')}"
        try:
            module = importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name == name:
                return None
            raise click.ClickException(
                f"'{cmd_name}' needs the package {error.name!r}; install its extra, for example "
                f"pip install 'splatfleet[local]'"
            ) from error
        command: click.Command = module.COMMAND
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Verbs"):
            formatter.write_dl(list(VERBS.items()))


@click.command(cls=Verbs, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="splatfleet")
def main() -> None:
    """Splatfleet: warm Gaussian-splat scenes before the traffic comes.

    \b
    Start here:
      splatfleet demo
    """


def kubectl_plugin() -> None:
    """The same as `kubectl splatfleet …`."""
    main(prog_name="kubectl splatfleet")


if __name__ == "__main__":
    sys.exit(main())
