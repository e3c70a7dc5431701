"""The panels of a dashboard as one picture, from what Prometheus answers, in the report's style."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from local_fleet.plot_style import LIGHT
from tests.monitoring.expressions import filled
from tests.monitoring.live_fleet import LiveFleet


def draw_board(board: dict[str, Any], fleet: LiveFleet, path: Path) -> Path:
    """Three panels a row; a panel without data says so."""
    from matplotlib.figure import Figure

    panels = [panel for panel in board["panels"] if panel["type"] != "row"]
    rows = -(-len(panels) // 3)
    figure = Figure(figsize=(15, 3.1 * rows), layout="constrained")
    figure.suptitle(board["title"], color=LIGHT.ink)
    places = list(figure.subplots(rows, 3, squeeze=False).flat)
    for axes in places[len(panels) :]:
        axes.set_visible(False)
    for axes, panel in zip(places, panels, strict=False):
        _draw(axes, panel, fleet)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=70)
    return path


def _draw(axes: Any, panel: dict[str, Any], fleet: LiveFleet) -> None:
    axes.set_title(f"{panel['title']} ({panel['fieldConfig']['defaults']['unit']})", fontsize=9, color=LIGHT.ink)
    lines = 0
    for target in panel["targets"]:
        text = filled(target["expr"], window_s=10, range_s=30)
        found = fleet.ask("query_range", query=text, start=fleet.begin_s, end=fleet.end_s, step=1)
        for row in found:
            label = target.get("legendFormat", "")
            for name, value in row["metric"].items():
                label = label.replace("{{" + name + "}}", value)
            times = [float(at) - fleet.begin_s for at, _ in row["values"]]
            colour = LIGHT.nodes[lines % len(LIGHT.nodes)]
            axes.plot(times, [float(value) for _, value in row["values"]], label=label[:40] or None, color=colour)
            lines += 1
    if not lines:
        axes.text(0.5, 0.5, "no data", ha="center", transform=axes.transAxes, color=LIGHT.muted)
    elif lines <= 8 and any(axes.get_legend_handles_labels()[1]):
        axes.legend(fontsize=6, loc="upper left")
    axes.grid(color=LIGHT.grid)
    axes.tick_params(labelsize=7)
