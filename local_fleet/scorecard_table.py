"""The scorecard on a terminal: one run, or two side by side."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from local_fleet import quantities
from local_fleet.machine import QUIET_RATIO
from local_fleet.scorecard import Scorecard


@dataclass(frozen=True, slots=True)
class Row:
    """One figure: its words, its field, how it is written, and whether less of it is better (None: neither).

    `not_always` is one that only some runs measure; it is left out where no run at hand did.
    """

    label: str
    field: str
    write: Callable[[Any], str]
    less_is_better: bool | None = None
    not_always: bool = False


REQUESTS = (
    Row("requests", "requests", quantities.number),
    Row("violations", "violations", quantities.number, True),
    Row("… of all requests", "violation_ratio", quantities.percent, True),
    Row("refused", "refused", quantities.number, True),
    Row("errors", "errors", quantities.number, True),
)
LATENCY = (
    Row("wait p50", "wait_p50_s", quantities.seconds, True),
    Row("wait p99", "wait_p99_s", quantities.seconds, True),
    Row("frame p50", "frame_p50_s", quantities.seconds, True),
    Row("frame p99", "frame_p99_s", quantities.seconds, True),
)
WARMTH = (
    Row("cold requests", "cold_requests", quantities.number, True),
    Row("… met no ready pod", "cold_pod_requests", quantities.number, True),
    Row("… met no pod with the scene", "cold_scene_requests", quantities.number, True),
    Row("scene hits", "scene_hits", quantities.number, False),
    Row("scene misses", "scene_misses", quantities.number, True),
    Row("fetched", "bytes_fetched", quantities.data, True),
    Row("… and from other nodes", "warm_peer_bytes", quantities.data),
    Row("first visit of a scene, longest wait", "first_visit_wait_max_s", quantities.seconds, True),
    Row("first visit of a new scene, predicted", "predicted_visit_wait_s", quantities.seconds, True, True),
    Row("… not predicted", "unpredicted_visit_wait_s", quantities.seconds, True, True),
    Row("… and what a fetch takes", "visit_fetch_s", quantities.seconds, None, True),
    Row("warm-ups late", "warm_deadlines_missed", quantities.number, True, True),
)
COST = (
    Row("pod-seconds", "pod_seconds", quantities.number, True),
    Row("pods, mean", "mean_pods", quantities.number, True),
    Row("pods, peak", "peak_pods", quantities.number),
    Row("failed starts", "failed_starts", quantities.number, True),
    Row("forecast coverage", "forecast_coverage", quantities.percent),
    Row("machine CPU p95", "machine_cpu_ratio_p95", quantities.percent),
    Row("… of other programs", "others_cpu_ratio_p95", quantities.percent, None, True),
    Row("first frame after", "first_frame_s", quantities.seconds, True),
)
SECTIONS: tuple[Sequence[Row], ...] = (REQUESTS, LATENCY, WARMTH, COST)


BUSY_RATIO_LIMIT = 0.7


def render_table(card: Scorecard) -> RenderableType:
    """One run as a table, what shaped it below."""
    table = Table(title=f"Scorecard · {name(card)}", show_header=False, title_justify="left", title_style="bold")
    table.add_column(style="dim")
    table.add_column(justify="right")
    for section in SECTIONS:
        for row in _measured(section, card):
            table.add_row(row.label, Text(row.write(getattr(card, row.field)), style=_alarm(row, card)))
        table.add_section()
    decisions = ", ".join(f"{reason} {count}" for reason, count in card.decisions.items()) or "none"
    return Group(table, Text(f"decisions: {decisions}", style="dim"), Text(conditions(card), style="dim"))


def compare(left: Scorecard, right: Scorecard) -> RenderableType:
    """Two runs side by side; the ratio is left over right, green where left did better, red where it did worse."""
    table = Table(title="Side by side", title_justify="left", title_style="bold")
    table.add_column("")
    table.add_column(name(left), justify="right")
    table.add_column(name(right), justify="right")
    table.add_column("ratio", justify="right")
    for section in SECTIONS:
        for row in _measured(section, left, right):
            values = [getattr(card, row.field) for card in (left, right)]
            table.add_row(row.label, *map(row.write, values), _ratio_cell(row, *values))
        table.add_section()
    lines = [Text(verdict(left, right), style="bold")]
    lines += [Text(f"{name(card)}: {spoilt(card)}", style="yellow") for card in (left, right) if spoilt(card)]
    if different := unlike(left, right):
        lines.append(Text(f"Not the same conditions: {', '.join(different)}.", style="yellow"))
    return Group(table, *lines)


def _measured(section: Sequence[Row], *cards: Scorecard) -> list[Row]:
    return [row for row in section if not row.not_always or any(getattr(card, row.field) is not None for card in cards)]


def verdict(left: Scorecard, right: Scorecard) -> str:
    """What the left run gained and what it paid, whichever way it went."""
    violations = f"{left.violations} violations against {right.violations}"
    if right.violations:
        violations += f" ({left.violations / right.violations:.2f} ×)"
    cost = f"{left.pod_seconds:,.0f} pod-seconds against {right.pod_seconds:,.0f}"
    if right.pod_seconds:
        cost += f" ({left.pod_seconds / right.pod_seconds:.2f} ×)"
    return f"{name(left)} against {name(right)}: {violations} for {cost}."


def unlike(left: Scorecard, right: Scorecard) -> list[str]:
    """What differs between two runs apart from their policy, so that nobody compares the incomparable."""
    pairs = {
        "seed": (left.seed, right.seed),
        "duration": (left.duration_s, right.duration_s),
        "requests": (left.requests, right.requests),
        "cores": (left.machine.get("cores"), right.machine.get("cores")),
        "cpu": (left.machine.get("cpu"), right.machine.get("cpu")),
    }
    policy = {"autoscaler", "placement", "warm_up", "json", "report", "startup_p50_s"}  # the last is an outcome
    for key in sorted((left.settings.keys() | right.settings.keys()) - policy - pairs.keys()):
        pairs[key] = (left.settings.get(key), right.settings.get(key))
    return [f"{key} {a} and {b}" for key, (a, b) in pairs.items() if a != b]


def spoilt(card: Scorecard) -> str:
    """Why a run's figures are not the fleet's, in one line; empty where they are."""
    if (card.others_cpu_ratio_p95 or 0.0) > QUIET_RATIO:
        share = quantities.percent(card.others_cpu_ratio_p95)
        return f"NOT THE FLEET'S FIGURES ALONE: other programs used up to {share} of this machine's CPU; play it again"
    if (card.machine_cpu_ratio_p95 or 0.0) > BUSY_RATIO_LIMIT:
        return f"note: the machine was over {BUSY_RATIO_LIMIT:.0%} busy; part of the waits is the machine's"
    return ""


def name(card: Scorecard) -> str:
    """The policy of a run."""
    without = " · no warm-up" if card.settings.get("warm_up") == "off" else ""
    return f"{card.autoscaler} · {card.placement}{without}"


def conditions(card: Scorecard) -> str:
    """What the run was, in one line: length, seed, machine."""
    machine = card.machine
    load = [machine.get("load_average_start"), machine.get("load_average_end")]
    words = [
        f"{card.duration_s:g} s of replay",
        f"seed {card.seed}" if card.seed is not None else "",
        f"{machine['cores']} cores" if "cores" in machine else "",
        str(machine.get("cpu", "")),
        "load " + " → ".join(f"{average[0]:.2f}" for average in load if average) if any(load) else "",
    ]
    return ", ".join(word for word in words if word)


def _ratio_cell(row: Row, left: float | None, right: float | None) -> Text:
    if left is None or right is None or right == 0:
        return Text("" if left == right else quantities.NO_DATA)
    style = ""
    if row.less_is_better is not None and left != right:
        style = "green" if (left < right) == row.less_is_better else "red"
    return Text(f"{left / right:.2f} ×", style=style)


def _alarm(row: Row, card: Scorecard) -> str:
    """A colour for what must not be overlooked."""
    value = getattr(card, row.field)
    if row.field in ("errors", "failed_starts") and value:
        return "bold red"
    limits = {"machine_cpu_ratio_p95": BUSY_RATIO_LIMIT, "others_cpu_ratio_p95": QUIET_RATIO}
    if value is not None and value > limits.get(row.field, float("inf")):
        return "bold yellow"  # the queueing measured is then the machine's too
    return "bold" if row.field in ("requests", "violations", "pod_seconds") else ""
