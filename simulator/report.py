"""The rows as a table and as a plot of violations over cost."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from simulator.comparison import Comparison, mean_over_seeds
from simulator.scaling import Row

HEAD = (
    "| policy | knob | violations % | cost / O1 | wait p99 s | cold | reversals/day | actions/day | decision p99 ms |\n"
    "|---|---|---|---|---|---|---|---|---|"
)
_COLOURS = {
    "ours": "#d97a1e",
    "ablation": "#e8b787",
    "reactive": "#2d6cdf",
    "predictive": "#8b62c7",
    "static": "#5c6673",
    "oracle": "#17936a",
}
FLOOR_PERCENT = 1e-3  # fewer violations are drawn here
FURTHEST_COST = 3.5  # dearer ones are drawn here, where all of ours are cheaper


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


def plot(rows: Sequence[Row], path: Path, title: str) -> None:
    """Violations (log) over cost, one line a policy; the lower left is better."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.0, 6.0), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    groups: dict[str, list[Row]] = {}
    for row in mean_over_seeds(rows):
        groups.setdefault(row.policy, []).append(row)
    furthest = max([FURTHEST_COST, *(row.cost_ratio for row in rows if row.kind == "ours")])
    nearest = min([0.8, *(row.cost_ratio for row in rows)])
    for policy, points in groups.items():
        kind = points[0].kind
        ordered = sorted(points, key=lambda row: row.cost_ratio)
        costs = [min(row.cost_ratio, furthest) for row in ordered]
        percents = [max(100 * row.violation_ratio, FLOOR_PERCENT) for row in ordered]
        width = 2.5 if kind == "ours" else 1.0
        axes.plot(costs, percents, marker="o", markersize=2 + width, linewidth=width, color=_COLOURS[kind])
        axes.annotate(
            policy, (costs[-1], percents[-1]), xytext=(4, 2), textcoords="offset points", fontsize=7,
            color=_COLOURS[kind], annotation_clip=True,
        )  # fmt: skip
    axes.set_yscale("log")
    axes.set_xlim(nearest - 0.05, furthest + 0.12 * (furthest - nearest))
    axes.set_xlabel(f"GPU time / clairvoyant's ({furthest:.3g}: that or more)")
    axes.set_ylabel(f"requests that waited too long, % ({FLOOR_PERCENT:g}: that or fewer)")
    axes.set_title(title)
    axes.grid(alpha=0.3)
    figure.savefig(path)
