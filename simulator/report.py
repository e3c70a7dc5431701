"""The rows as a table and as a plot of violations over cost."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from simulator.comparison import Comparison, mean_over_seeds, pareto
from simulator.contenders import FAMILIES
from simulator.scaling import Row

HEAD = (
    "| policy | knob | violations % | cost / O1 | wait p99 s | cold | reversals/day | actions/day | decision p99 ms |\n"
    "|---|---|---|---|---|---|---|---|---|"
)
_COLOURS = {
    "ours": "#d97a1e",
    "reactive": "#2d6cdf",
    "predictive": "#8b62c7",
    "static": "#5c6673",
    "oracle": "#17936a",
    "ablation": "#e8b787",
}
_MARKERS = "osD^vP*X<>hpd"  # of the policies of one kind
FLOOR_PERCENT = 1e-3  # fewer violations are drawn here


def table(rows: Sequence[Row]) -> str:
    """The whole table as Markdown, means over seeds; the knob that the training days chose is marked with *."""
    lines = [HEAD]
    for row in mean_over_seeds(rows):
        cells = (
            f"**{row.policy}**" if row.kind == "ours" else row.policy,
            f"{row.knob:g}{'*' if row.tuned else ''}",
            f"{100 * row.violation_ratio:.3f}",
            f"{row.cost_ratio:.2f}",
            f"{row.wait_p99_s:.2f}",
            str(row.cold_requests),
            f"{row.reversals_per_day:.1f}",
            f"{row.actions_per_day:.0f}",
            f"{row.decision_ms_p99:.2f}",
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def sentence(comparison: Comparison | None) -> str:
    """The comparison in words, losses too."""
    if comparison is None:
        return "Nothing to compare: ours and a reactive rival are both needed."
    rival, cheap, good = comparison.rival, comparison.ours_at_cost, comparison.ours_at_violations
    text = (
        f"Best-tuned reactive rival: {rival.policy} at {rival.knob:g}, {100 * rival.violation_ratio:.3f} % violations"
        f" at {rival.cost_ratio:.2f}. "
    )
    if cheap is None:
        text += "Ours is nowhere so cheap. "
    else:
        text += f"Ours at that cost or less: {100 * cheap.violation_ratio:.3f} % at {cheap.cost_ratio:.2f}. "
    if good is None or comparison.saved is None:
        return text + "Ours has nowhere so few violations."
    saved = 100 * comparison.saved
    return (
        text + f"At its violations or fewer, ours takes {abs(saved):.0f} % {'less' if saved >= 0 else 'more'} GPU time."
    )


def plot(rows: Sequence[Row], path: Path, title: str, allowed: float = 0.01) -> None:
    """Violations over cost, both logarithmic, one line a policy; the lower left is better, below `allowed` is kept.

    Where knobs were chosen on training days only the chosen ones are filled. The broad line is the front of ours.
    """
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import FormatStrFormatter, LogLocator, NullLocator

    figure = Figure(figsize=(10.0, 6.0), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    groups: dict[str, list[Row]] = {}
    means, order = mean_over_seeds(rows), [*FAMILIES, *(row.policy for row in rows)]  # a policy looks alike everywhere
    for row in sorted(means, key=lambda row: (list(_COLOURS).index(row.kind), order.index(row.policy), row.knob)):
        groups.setdefault(row.policy, []).append(row)
    front = pareto([row for group in groups.values() for row in group if row.kind == "ours"])
    broad: dict[str, Any] = {"linewidth": 7.0, "alpha": 0.25, "solid_capstyle": "round", "label": "front of ours"}
    axes.plot(*_places(front), color=_COLOURS["ours"], **broad)
    members: Counter[str] = Counter()
    for policy, points in groups.items():
        kind = points[0].kind
        marker = _MARKERS[members[kind] % len(_MARKERS)]
        members[kind] += 1
        filled = [index for index, row in enumerate(points) if row.tuned] or range(len(points))
        costs, percents = _places(points)
        style: dict[str, Any] = {"color": _COLOURS[kind], "marker": marker, "markersize": 5.0}
        axes.plot(costs, percents, linewidth=0.8, markerfacecolor="white", label=policy, **style)
        axes.plot([costs[i] for i in filled], [percents[i] for i in filled], linestyle="none", **style)
    axes.axhline(100 * allowed, color="#444444", linewidth=0.8, linestyle="--", label="objective")
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 1.5, 2.0, 3.0, 5.0, 7.0)))
    axes.xaxis.set_major_formatter(FormatStrFormatter("%g"))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FormatStrFormatter("%g"))
    axes.set_xlabel("GPU time / clairvoyant's")
    axes.set_ylabel(f"requests that waited too long, % ({FLOOR_PERCENT:g}: that or fewer)")
    axes.set_title(title)
    axes.grid(alpha=0.3)
    chosen = "filled: chosen on\nthe training days" if any(row.tuned for row in means) else None
    figure.legend(loc="outside right upper", fontsize=7, frameon=False, title=chosen, title_fontsize=7)
    # The same rows are the same file, and letters stay letters.
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "splatfleet"}):
        figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)


def _places(points: Sequence[Row]) -> tuple[list[float], list[float]]:
    """Costs and violations in per cent, where they are drawn."""
    return [row.cost_ratio for row in points], [max(100 * row.violation_ratio, FLOOR_PERCENT) for row in points]
