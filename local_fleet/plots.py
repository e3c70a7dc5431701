"""The plots of the report: a run in, figures out. Drawn without pyplot, so no global state and no display."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from local_fleet.load import WAIT_OBJECTIVE_S, FrameRecord
from local_fleet.plot_style import LIGHT, Palette, legend, new_figure, plain, time_axis
from local_fleet.scorecard import violates
from local_fleet.timeline import Moment, Timeline

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BAND_S = 2.0
SCENES_SHOWN = 14
MARKS_MOST = 4000
STARTING = ("scheduling", "provisioning", "booting")
WAIT_FLOOR_S = 0.001  # the log axis begins here


def demand_figure(timeline: Timeline, palette: Palette = LIGHT) -> Figure:
    """Demand, the forecast's working quantile and the capacity in requests per second, ready pods below."""
    figure, (rates, pods) = new_figure(palette, (2.6, 1.0))
    moments = timeline.moments
    times_s = [moment.t_s for moment in moments]
    history_s, history = _history_tail(timeline)
    if history:
        rates.fill_between(history_s, history, step="post", color=palette.history, alpha=0.45, linewidth=0)
        rates.plot(history_s, history, drawstyle="steps-post", color=palette.history, linewidth=1)
        rates.text(
            history_s[0],
            1.0,
            " history",
            color=palette.muted,
            va="top",
            transform=rates.get_xaxis_transform(),
            fontsize=9,
        )
    demand = _series(moments, lambda moment: moment.demand_per_s)
    rates.fill_between(times_s, demand, color=palette.demand, alpha=0.18, linewidth=0)
    rates.plot(times_s, demand, color=palette.demand, linewidth=1.6, label="demand")
    forecast = _series(moments, lambda moment: moment.forecast_per_s)
    rates.plot(
        times_s, forecast, color=palette.forecast, linewidth=1.6, label="forecast of the peak in the lead window"
    )
    median = _series(moments, lambda moment: moment.forecast_median_per_s)
    rates.plot(times_s, median, color=palette.forecast, linewidth=1, linestyle=(0, (2, 2)), label="its median")
    capacity = _series(moments, lambda moment: moment.capacity_per_s)
    rates.plot(times_s, capacity, drawstyle="steps-post", color=palette.capacity, linewidth=1.8, label="capacity")
    rates.set_ylabel("requests / s")
    rates.set_ylim(bottom=0)
    legend(rates, palette)
    ready = _series(moments, lambda moment: moment.ready_replicas)
    pods.fill_between(times_s, ready, step="post", color=palette.capacity, alpha=0.3, linewidth=0, label="ready")
    desired = _series(moments, lambda moment: moment.desired_replicas)
    pods.plot(times_s, desired, drawstyle="steps-post", color=palette.ink, linewidth=1.3, label="desired")
    floor = _series(moments, lambda moment: moment.floor_replicas)
    pods.plot(
        times_s, floor, drawstyle="steps-post", color=palette.muted, linewidth=1, linestyle="--", label="reactive floor"
    )
    pods.set_ylabel("pods")
    pods.set_ylim(bottom=0)
    legend(pods, palette)
    time_axis((rates, pods), timeline, palette, history_s[0] if history_s else 0.0)
    return figure


def wait_figure(timeline: Timeline, records: Sequence[FrameRecord], palette: Palette = LIGHT) -> Figure:
    """The wait of every request on a log axis, its p50 and p99 in bands, the objective, and who missed it."""
    figure, (axes,) = new_figure(palette, (3.0,))
    kept = [record for record in records if not violates(record)]
    slow = [record for record in records if violates(record) and record.status == 200]
    lost = [record for record in records if record.status != 200]
    axes.plot(
        *_waits(kept), "o", markersize=2, color=palette.demand, alpha=0.35, markeredgewidth=0, rasterized=_heavy(kept)
    )
    axes.plot(
        *_waits(slow), "o", markersize=3.5, color=palette.bad, markeredgewidth=0,
        rasterized=_heavy(slow), label=f"waited over {WAIT_OBJECTIVE_S:g} s ({len(slow)})",
    )  # fmt: skip
    axes.plot(
        *_waits(lost), "x", markersize=5, color=palette.bad, rasterized=_heavy(lost),
        label=f"failed or refused ({len(lost)})",
    )  # fmt: skip
    middle_s, p50_s, p99_s = bands(records)
    axes.plot(middle_s, p99_s, color=palette.forecast, linewidth=1.6, label=f"p99 of {BAND_S:g} s")
    axes.plot(middle_s, p50_s, color=palette.ink, linewidth=1.4, label=f"p50 of {BAND_S:g} s")
    axes.axhline(WAIT_OBJECTIVE_S, color=palette.bad, linewidth=1, linestyle="--")
    axes.set_yscale("log")
    highest_s = max([record.waited_s for record in records], default=1.0)
    axes.set_ylim(WAIT_FLOOR_S, max(2.0, highest_s * 1.6))
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g} s" if value >= 1 else f"{value * 1000:g} ms")
    axes.set_ylabel("wait until the render starts")
    legend(axes, palette)
    time_axis((axes,), timeline, palette)
    return figure


def pods_figure(timeline: Timeline, palette: Palette = LIGHT) -> Figure:
    """Pods that exist, stacked by node: ready solid, starting hatched, draining pale."""
    figure, (axes,) = new_figure(palette, (2.4,))
    times_s = [*(moment.t_s for moment in timeline.moments), *_ends_s(timeline)[-1:]]
    below = np.zeros(len(times_s))
    names = sorted({pod.node for moment in timeline.moments for pod in moment.pods} - {""})
    for number, node in enumerate(names):
        colour = palette.nodes[number % len(palette.nodes)]
        for stages, style in (
            (("ready",), {"facecolor": colour, "alpha": 0.85, "label": plain(node)}),
            (("draining",), {"facecolor": colour, "alpha": 0.35}),
            (STARTING, {"facecolor": "none", "edgecolor": colour, "hatch": "/////"}),
        ):
            count = _counts(timeline, node, stages)
            axes.fill_between(times_s, below, below + count, step="post", linewidth=0, **style)
            below = below + count
    unplaced = _counts(timeline, "", STARTING)
    if unplaced.any():
        axes.fill_between(
            times_s, below, below + unplaced, step="post", facecolor="none", edgecolor=palette.muted, hatch="....",
            linewidth=0, label="no slice yet",
        )  # fmt: skip
    axes.fill_between([], [], facecolor="none", edgecolor=palette.muted, hatch="/////", linewidth=0, label="starting")
    axes.fill_between([], [], color=palette.muted, alpha=0.35, linewidth=0, label="draining")
    axes.set_ylabel("pods")
    axes.set_ylim(0, max(1.0, float((below + unplaced).max(initial=0.0))) * 1.15)
    legend(axes, palette)
    time_axis((axes,), timeline, palette)
    return figure


def scenes_figure(timeline: Timeline, records: Sequence[FrameRecord], palette: Palette = LIGHT) -> Figure:
    """For each scene how many ready pods hold it (darker is more), and the requests that met it cold."""
    asked = Counter(record.scene for record in records)
    held = Counter(scene for moment in timeline.moments for pod in moment.pods for scene in pod.scenes)
    scenes = [scene for scene, _ in (asked + Counter(dict.fromkeys(held, 0)) or held).most_common(SCENES_SHOWN)]
    figure, (axes,) = new_figure(palette, (max(1.2, 0.3 * len(scenes) + 0.5),))
    most = max((_holders(moment, scene) for moment in timeline.moments for scene in scenes), default=1) or 1
    cold = [record for record in records if record.cold in ("pod", "scene")]
    for row, scene in enumerate(scenes):
        for from_s, until_s, count in stretches(timeline, scene):
            alpha = 0.15 + 0.75 * count / most
            axes.broken_barh(
                [(from_s, until_s - from_s)], (row - 0.38, 0.76), color=palette.capacity, alpha=alpha, linewidth=0
            )
        here = [record for record in cold if record.scene == scene]
        note = f" {asked[scene]:,} asked, {len(here)} cold"
        axes.text(1.0, row, note, transform=axes.get_yaxis_transform(), color=palette.muted, va="center", fontsize=9)
    rows = {scene: row for row, scene in enumerate(scenes)}
    for kind, mark, label in (("scene", "o", "no ready pod held the scene"), ("pod", "D", "no pod was ready")):
        points = [(record.t_s, rows[record.scene]) for record in cold if record.cold == kind and record.scene in rows]
        axes.plot(
            [t_s for t_s, _ in points], [row for _, row in points], mark, markersize=4, color=palette.bad,
            markeredgewidth=0, alpha=0.85, rasterized=_heavy(points), label=f"{label} ({len(points)})",
        )  # fmt: skip
    axes.set_yticks(range(len(scenes)), [plain(scene[:28]) for scene in scenes])
    axes.set_ylim(len(scenes) - 0.4, -1.2)  # room for the names of the days
    axes.grid(False, axis="y")
    axes.fill_between(
        [], [], color=palette.capacity, alpha=0.6, linewidth=0, label=f"held by ready pods (most: {most})"
    )
    legend(axes, palette)
    time_axis((axes,), timeline, palette)
    return figure


def pressure_figure(timeline: Timeline, palette: Palette = LIGHT) -> Figure:
    """What the machine and the queues were doing: busy cores, queue-to-compute ratio, requests that wait."""
    figure, (cpu, ratio, pending) = new_figure(palette, (1.0, 0.8, 0.8))
    times_s = [moment.t_s for moment in timeline.moments]
    busy = _series(timeline.moments, lambda moment: moment.machine_cpu_ratio * 100)
    cpu.fill_between(times_s, busy, color=palette.demand, alpha=0.2, linewidth=0)
    cpu.plot(times_s, busy, color=palette.demand, linewidth=1.4)
    cpu.axhline(70, color=palette.bad, linewidth=1, linestyle="--")
    cpu.set_ylim(0, 100)
    cpu.set_ylabel("CPU %")
    cpu.set_title("above 70 % the queueing is the machine's too", loc="left", fontsize=9, color=palette.muted)
    queue = _series(timeline.moments, lambda moment: moment.queue_to_compute)
    ratio.plot(times_s, queue, color=palette.forecast, linewidth=1.4)
    ratio.set_ylabel("queue /\ncompute")
    ratio.set_ylim(bottom=0)
    waiting = _series(timeline.moments, lambda moment: moment.pending)
    pending.fill_between(times_s, waiting, step="post", color=palette.bad, alpha=0.35, linewidth=0)
    pending.plot(times_s, waiting, drawstyle="steps-post", color=palette.bad, linewidth=1.2)
    pending.set_ylabel("requests\npending")
    pending.set_ylim(bottom=0)
    time_axis((cpu, ratio, pending), timeline, palette)
    return figure


def bands(records: Sequence[FrameRecord], band_s: float = BAND_S) -> tuple[list[float], list[float], list[float]]:
    """Middle of each band of time that has requests, and the p50 and p99 of their waits."""
    waits_s: dict[int, list[float]] = {}
    for record in records:
        waits_s.setdefault(int(record.t_s // band_s), []).append(max(WAIT_FLOOR_S, record.waited_s))
    numbers = sorted(waits_s)
    quantiles = [np.quantile(waits_s[number], [0.5, 0.99]) for number in numbers]
    middle_s = [(number + 0.5) * band_s for number in numbers]
    return middle_s, [float(pair[0]) for pair in quantiles], [float(pair[1]) for pair in quantiles]


def stretches(timeline: Timeline, scene: str) -> list[tuple[float, float, int]]:
    """(from_s, until_s, pods) for every stretch of time in which the same number of ready pods held a scene."""
    found: list[tuple[float, float, int]] = []
    for moment, until_s in zip(timeline.moments, _ends_s(timeline), strict=True):
        count = _holders(moment, scene)
        if count and found and found[-1][1:] == (moment.t_s, count):
            found[-1] = (found[-1][0], until_s, count)
        elif count:
            found.append((moment.t_s, until_s, count))
    return found


def _ends_s(timeline: Timeline) -> list[float]:
    """When each moment gives way to the next; the last one stands for one bin."""
    times_s = [moment.t_s for moment in timeline.moments]
    return [*times_s[1:], times_s[-1] + timeline.bin_s] if times_s else []


def _holders(moment: Moment, scene: str) -> int:
    return sum(pod.stage == "ready" and scene in pod.scenes for pod in moment.pods)


def _counts(timeline: Timeline, node: str, stages: Sequence[str]) -> NDArray[np.float64]:
    """Pods of a node in some stages at every moment, the last one held until its end."""
    counts = [sum(pod.node == node and pod.stage in stages for pod in moment.pods) for moment in timeline.moments]
    return np.array([*counts, *counts[-1:]], float)


def _series(moments: Sequence[Moment], read: Callable[[Moment], float | None]) -> list[float]:
    """One value a moment; no data is NaN, a gap in the line."""
    return [math.nan if (value := read(moment)) is None else value for moment in moments]


def _heavy(points: Sequence[object]) -> bool:
    """Whether so many marks are better one embedded picture than one element each."""
    return len(points) > MARKS_MOST


def _waits(records: Sequence[FrameRecord]) -> tuple[list[float], list[float]]:
    return [record.t_s for record in records], [max(WAIT_FLOOR_S, record.waited_s) for record in records]


def _history_tail(timeline: Timeline) -> tuple[list[float], list[float]]:
    """The last day of history at negative times, closed at zero."""
    bins = round(timeline.day_s / timeline.bin_s) if timeline.bin_s > 0 else 0
    tail = timeline.history_per_s[-bins:] if bins else []
    times_s = [-timeline.bin_s * (len(tail) - number) for number in range(len(tail) + 1)]
    return (times_s, [*tail, tail[-1]]) if tail else ([], [])
