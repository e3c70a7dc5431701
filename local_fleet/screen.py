"""What the live view draws: one moment of a run as lines of text. Pure: a timeline and a size in, lines out."""

from __future__ import annotations

import re
from collections.abc import Sequence

from rich.style import Style
from rich.text import Text

from local_fleet import quantities
from local_fleet.timeline import DecisionView, Moment, NodeView, PodView, Timeline

WINDOW_S = 60.0
CHART_ROWS, CHART_ROWS_MOST = 5, 9
DECISIONS = 5
MARGIN = 20  # cells left of the slices
NARROWEST = 60
BLOCKS = " ▁▂▃▄▅▆▇█"

DEMAND, FORECAST, CAPACITY = "blue", "yellow", "green"
STAGES = {  # stage -> (glyph, colour); the words are the legend
    "scheduling": ("·", "magenta"),
    "provisioning": ("◌", "yellow"),
    "booting": ("◐", "bright_yellow"),
    "ready": ("●", "green"),
    "draining": ("○", "blue"),
    "stopped": (" ", "bright_black"),
}
STAGE_LEGEND = [
    Text.assemble(" ", *((f"{glyph} {stage}   ", colour) for stage, (glyph, colour) in STAGES.items() if glyph.strip()))
]
_START = re.compile(r"@(\d+)$")


def draw(timeline: Timeline, moment: Moment, width: int, height: int) -> list[Text]:
    """The whole screen, at most `height` lines of `width` cells; decisions give way first, then the chart."""
    width, shown = max(width, NARROWEST), width
    head = [heading(timeline, moment, width), figures(moment), Text()]
    cell_width = max(6, (width - MARGIN) // max([1, *(len(_seats(node, moment.pods)) for node in moment.nodes)]))
    fixed = len(head) + len(STAGE_LEGEND)
    roomy = height >= fixed + CHART_ROWS + 1 + 3 * len(moment.nodes) + DECISIONS
    nodes = [line for node in moment.nodes for line in node_lines(node, moment.pods, cell_width, 2 if roomy else 1)]
    unplaced = [short_uid(pod.uid) for pod in moment.pods if not pod.node and pod.stage != "stopped"]
    if unplaced:
        nodes.append(Text(f" no slice yet: {' '.join(unplaced)}", style="magenta"))
    left = height - fixed - len(nodes)
    rows = min(CHART_ROWS_MOST, max(CHART_ROWS, left - DECISIONS - 1))
    chart = chart_lines(timeline, moment, width, rows) if left > CHART_ROWS else []
    decisions = decision_lines(timeline.decisions, max(0, min(DECISIONS, left - len(chart))))
    lines = [*head, *chart, *nodes, *STAGE_LEGEND, *decisions]
    for line in lines:
        line.no_wrap = True
        line.truncate(shown, overflow="ellipsis")
    return lines[:height]


def heading(timeline: Timeline, moment: Moment, width: int) -> Text:
    """What runs, how far it is, which day of the replay."""
    day = int(moment.t_s // timeline.day_s) + 1 if timeline.day_s > 0 else 1
    days = max(1, round(timeline.duration_s / timeline.day_s)) if timeline.day_s > 0 else 1
    left = Text.assemble(
        (" splatfleet ", "bold reverse"),
        " ",
        (timeline.title, "bold"),
        f"  {timeline.autoscaler} · {timeline.placement}",
    )
    end = f"  {quantities.clock(moment.t_s)} of {quantities.clock(timeline.duration_s)}  day {min(day, days)}/{days}"
    left.truncate(max(0, width - len(end) - 10), overflow="ellipsis")
    bar_cells = max(0, width - left.cell_len - len(end) - 2)
    done = round(bar_cells * min(1.0, moment.t_s / timeline.duration_s)) if timeline.duration_s > 0 else 0
    return (
        left
        + Text("  ")
        + Text("━" * done, style="cyan")
        + Text("━" * (bar_cells - done), style="bright_black")
        + Text(end)
    )


def figures(moment: Moment) -> Text:
    """The numbers that a decision stands on."""
    pods = f"{moment.ready_replicas} of {moment.desired_replicas}"
    if moment.starting_replicas:
        pods += f" (+{moment.starting_replicas} start)"
    cpu_style = "bold yellow" if moment.machine_cpu_ratio > 0.7 else "bold"
    pending_style = "bold red" if moment.pending else "bold"
    return Text.assemble(
        (" pods ", "dim"), (pods, "bold"),
        ("   floor ", "dim"), (quantities.number(moment.floor_replicas), "bold"),
        ("   pending ", "dim"), (quantities.number(moment.pending), pending_style),
        ("   queue/compute ", "dim"), (quantities.number(moment.queue_to_compute), "bold"),
        ("   CPU ", "dim"), (quantities.percent(moment.machine_cpu_ratio), cpu_style),
    )  # fmt: skip


def chart_lines(timeline: Timeline, moment: Moment, width: int, rows: int) -> list[Text]:
    """The last minute: demand as bars, forecast and capacity as lines over them, their numbers beside."""
    columns = width - 26
    times_s = [moment.t_s - WINDOW_S * (columns - 1 - column) / columns for column in range(columns)]
    past = [_at(timeline.moments, t_s) for t_s in times_s]
    demand = [seen.demand_per_s if seen else _history(timeline, t_s) for seen, t_s in zip(past, times_s, strict=True)]
    forecast = [seen.forecast_per_s if seen else None for seen in past]
    capacity = [seen.capacity_per_s if seen else None for seen in past]
    top = (
        max([value for line in (demand, forecast, capacity) for value in line if value is not None], default=0.0) or 1.0
    )
    numbers = {
        0: ("━ forecast ", FORECAST, moment.forecast_per_s),
        1: ("  median   ", "dim", moment.forecast_median_per_s),
        2: ("━ capacity ", CAPACITY, moment.capacity_per_s),
        3: ("█ demand   ", DEMAND, moment.demand_per_s),
    }
    lines = []
    for row in range(rows):
        floor = rows - 1 - row
        axis = quantities.rate(top) if row == 0 else "0" if floor == 0 else ""
        line = Text.assemble((f" {axis:>5} ", "dim"))
        for column in range(columns):
            marks = [(forecast[column], FORECAST), (capacity[column], CAPACITY)]
            if column % 2:  # both in one cell show in turn
                marks.reverse()
            line.append(*_cell(demand[column], marks, floor, rows / top))
        if row in numbers:
            label, style, value = numbers[row]
            line.append(f"  {label}", style=style)
            line.append(f"{quantities.rate(value):>6}", style="bold")
        lines.append(line)
    return [*lines, Text()]


def node_lines(node: NodeView, pods: Sequence[PodView], cell_width: int, scene_lines: int) -> list[Text]:
    """The slices with their pods, under them a line or two of what those pods hold; the node's disk at the left."""
    slices = Text(f" {node.name:<9.9} ", style="bold")
    slices.append(f"{node.slices_used}/{node.slices_total}".ljust(9), style="dim")
    scenes = [_disk(node), *(Text(" " * MARGIN) for _ in range(scene_lines - 1))]
    for pod in _seats(node, pods):
        if pod is None:
            slices.append("▁" * (cell_width - 1) + " ", style="bright_black")
        else:
            glyph, colour = STAGES.get(pod.stage, ("?", "red"))
            ratio = "" if pod.queue_to_compute is None else f" {pod.queue_to_compute:.1f}"
            label = f"{glyph} {short_uid(pod.uid)}{ratio}"
            style = f"{colour} reverse" if pod.stage == "ready" else colour
            slices.append(f"{label:<{cell_width - 1}.{cell_width - 1}}", style=style).append(" ")
        for line, held in zip(scenes, scene_cells(pod.scenes if pod else (), cell_width - 1, scene_lines), strict=True):
            line.append(f"{held} ", style="" if pod and pod.stage == "ready" else "dim italic")
    return [slices, *scenes]


def scene_cells(scenes: Sequence[str], cells: int, lines: int) -> list[str]:
    """What a pod holds in so many lines of so many cells: an id a line, those left over side by side or as `+n`."""
    first = [shorten(scene, cells).ljust(cells) for scene in scenes[: lines - 1]]
    rest = [scene_cell(scenes[lines - 1 :], cells)]
    return [*first, *[" " * cells] * (lines - 1 - len(first)), *rest]


def scene_cell(scenes: Sequence[str], cells: int) -> str:
    """Scene ids cut to fit side by side, `+n` for those that do not."""
    if not scenes:
        return " " * cells
    more = f"+{len(scenes) - 1}" if len(scenes) > 1 else ""
    if len(scenes) > 1 and cells >= 5 * len(scenes) - 1:
        each = (cells - len(scenes) + 1) // len(scenes)
        return " ".join(shorten(scene, each) for scene in scenes).ljust(cells)
    return (shorten(scenes[0], cells - len(more)) + more).ljust(cells)


def shorten(scene: str, cells: int) -> str:
    """A scene id in so many cells; the end tells levels of detail apart, so the middle goes."""
    if len(scene) <= cells:
        return scene
    if cells < 4:
        return scene[: max(0, cells)]
    tail = len(scene) - scene.rfind("-") if "-" in scene[-3:] else 0
    return scene[: cells - tail - 1] + "…" + scene[len(scene) - tail :]


def short_uid(uid: str) -> str:
    """The number of a pod, `renderers-007` -> `007`."""
    return uid.rpartition("-")[2][-5:]


def decision_lines(decisions: Sequence[DecisionView], room: int) -> list[Text]:
    """The last decisions, newest first; a run of equal ones is told once, with when it began."""
    lines = []
    for decision, _ in reversed(runs(decisions)[-room:] if room else []):
        line = Text(f" {quantities.clock(decision.t_s):>5} ", style="dim")
        line.append(f"{decision.replicas:>2} pods ", style="bold").append(f"{decision.reason:<12}", style="cyan")
        lines.append(line.append(f" {decision.explanation}", style="dim"))
    return lines


def runs(decisions: Sequence[DecisionView]) -> list[tuple[DecisionView, int]]:
    """Decisions with equal neighbours (replicas and reason) folded into the first, and how many there were."""
    folded: list[tuple[DecisionView, int]] = []
    for decision in decisions:
        if folded and (folded[-1][0].replicas, folded[-1][0].reason) == (decision.replicas, decision.reason):
            folded[-1] = (folded[-1][0], folded[-1][1] + 1)
        else:
            folded.append((decision, 1))
    return folded


def _disk(node: NodeView) -> Text:
    """How full a node's scene store is."""
    share = node.store_used_bytes / node.store_capacity_bytes if node.store_capacity_bytes > 0 else 0.0
    filled = min(8, round(8 * share))
    line = Text(" ").append("▪" * filled, style="cyan").append("▪" * (8 - filled), style="bright_black")
    return line.append(f" {quantities.data(node.store_used_bytes)}".ljust(MARGIN - 9), style="dim")


def _seats(node: NodeView, pods: Sequence[PodView]) -> list[PodView | None]:
    """One entry a slice: the pod on it. A pod whose slice has no number takes the first free one."""
    seats: list[PodView | None] = [None] * node.slices_total
    homeless = []
    for pod in (pod for pod in pods if pod.node == node.name and pod.stage != "stopped"):
        match = _START.search(pod.slice)
        seat = int(match[1]) if match else -1
        if 0 <= seat < len(seats) and seats[seat] is None:
            seats[seat] = pod
        else:
            homeless.append(pod)
    for pod in homeless:
        if None in seats:
            seats[seats.index(None)] = pod
        else:
            seats.append(pod)
    return seats


def _history(timeline: Timeline, t_s: float) -> float | None:
    """The demand of a moment before the replay; None where nothing is known of it."""
    back = int(-t_s // timeline.bin_s) + 1 if timeline.bin_s > 0 else 0
    return timeline.history_per_s[-back] if t_s < 0 and 0 < back <= len(timeline.history_per_s) else None


def _at(moments: Sequence[Moment], t_s: float) -> Moment | None:
    """The newest moment that is not after `t_s`; None before the first."""
    for moment in reversed(moments):
        if moment.t_s <= t_s:
            return moment
    return None


def _cell(
    demand: float | None, marks: Sequence[tuple[float | None, str]], floor: int, rows_per_unit: float
) -> tuple[str, Style]:
    """One cell of the chart: the block of the demand, or the first mark that falls into it, on the demand's colour."""
    filled = 0.0 if demand is None else min(1.0, max(0.0, demand * rows_per_unit - floor))
    for value, colour in marks:
        if value is None or value <= 0:
            continue
        if floor < value * rows_per_unit <= floor + 1:
            return "━", Style(color=colour, bgcolor=DEMAND if filled > 0.6 else None)
    return BLOCKS[round(filled * 8)], Style(color=DEMAND)
