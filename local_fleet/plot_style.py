"""How the plots look, and how a figure becomes markup that follows the colours of the page."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from local_fleet.timeline import Timeline

WIDTH_IN = 10.0
_ID = re.compile(r' id="([^"]+)"')
_REFERENCE = re.compile(r'(?:xlink:href="#|url\(#)([^")]+)')


@dataclass(frozen=True, slots=True)
class Palette:
    """Colours by what they mean. All differ, so that a style sheet can replace each in the finished drawing."""

    ink: str = "#1c2128"
    muted: str = "#5c6673"
    grid: str = "#e2e6eb"
    demand: str = "#2d6cdf"
    history: str = "#a9b8cf"
    forecast: str = "#d97a1e"
    capacity: str = "#17936a"
    bad: str = "#cf3535"
    nodes: tuple[str, ...] = ("#4a7fd6", "#8b62c7", "#2b9fa6", "#c2853a", "#7a8b3c", "#b3577f")

    def named(self) -> dict[str, str]:
        """CSS name -> colour."""
        single = ("ink", "muted", "grid", "demand", "history", "forecast", "capacity", "bad")
        return {name: getattr(self, name) for name in single} | {
            f"node-{number}": colour for number, colour in enumerate(self.nodes)
        }


LIGHT = Palette()
DARK = Palette(
    ink="#e4e8ee",
    muted="#97a2b1",
    grid="#2c333e",
    demand="#6fa0ff",
    history="#4c5a70",
    forecast="#f2a65a",
    capacity="#4dcb9b",
    bad="#ff7b7b",
    nodes=("#78a4f0", "#b08fe6", "#58c4ca", "#e0ab66", "#a9bb68", "#dd8bae"),
)


def new_figure(palette: Palette, heights_in: Sequence[float]) -> tuple[Figure, list[Axes]]:
    """Axes under each other on one time axis, on a transparent ground."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH_IN, sum(heights_in) + 0.45 * len(heights_in)), layout="constrained")
    figure.patch.set_alpha(0.0)
    axes = figure.subplots(len(heights_in), 1, sharex=True, squeeze=False, height_ratios=list(heights_in))[
        :, 0
    ].tolist()
    for one in axes:
        one.patch.set_alpha(0.0)
        one.set_axisbelow(True)
        one.grid(True, axis="y", color=palette.grid, linewidth=0.8)
        one.tick_params(which="both", colors=palette.muted, labelcolor=palette.muted, labelsize=9, length=0)
        one.yaxis.label.set_color(palette.muted)
        one.xaxis.label.set_color(palette.muted)
        for side, spine in one.spines.items():
            spine.set_visible(side == "bottom")
            spine.set_color(palette.muted)
    return figure, axes


def legend(axes: Axes, palette: Palette) -> None:
    """A frameless legend in one row above the axes."""
    _, labels = axes.get_legend_handles_labels()
    if labels:
        axes.legend(
            loc="lower left", bbox_to_anchor=(0.0, 1.0), ncols=len(labels), frameon=False, fontsize=9,
            labelcolor=palette.ink, borderaxespad=0.1, handlelength=1.4, columnspacing=1.4,
        )  # fmt: skip


def time_axis(axes: Sequence[Axes], timeline: Timeline, palette: Palette, from_s: float = 0.0) -> None:
    """Replay seconds at the bottom, a line and a name at every day."""
    end_s = max([timeline.duration_s, *(moment.t_s for moment in timeline.moments[-1:])])
    for one in axes:
        one.set_xlim(from_s, end_s)
        day = 0
        while timeline.day_s > 0 and day * timeline.day_s < end_s and day < 60:
            one.axvline(day * timeline.day_s, color=palette.muted, linewidth=0.8, linestyle=(0, (1, 3)))
            if one is axes[0] and timeline.day_s > (end_s - from_s) / 25:
                one.text(
                    day * timeline.day_s, 0.99, f" day {day + 1}", color=palette.muted, fontsize=9, va="top",
                    transform=one.get_xaxis_transform(),
                )  # fmt: skip
            day += 1
    axes[-1].set_xlabel("seconds of the replay")


def plain(text: str) -> str:
    """Text from outside as matplotlib draws it letter for letter: no mathematics, no hidden legend entry."""
    return ("\u200b" if text.startswith("_") else "") + text.replace("$", r"\$")


def to_svg(figure: Figure, name: str, palette: Palette) -> str:
    """The figure as an inline `<svg>`: text stays text, every palette colour becomes `var(--name)`.

    `name` keeps the ids of several drawings on one page apart.
    """
    import matplotlib

    drawn = io.BytesIO()
    nothing: dict[str, Any] = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": name, "hatch.linewidth": 0.9}):
        figure.savefig(drawn, format="svg", dpi=160, metadata=nothing)
    text = drawn.getvalue().decode()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = (
        re.sub(r' (xmlns(:\w+)?|version|height|width)="[^"]*"', "", text[: text.index(">")]) + text[text.index(">") :]
    )
    used = set(_REFERENCE.findall(text))
    text = _ID.sub(lambda match: f' id="{name}-{match[1]}"' if match[1] in used else "", text)
    text = _REFERENCE.sub(lambda match: match[0].replace(match[1], f"{name}-{match[1]}"), text)
    text = re.sub(r"font: (\d+)px [^;\"]*", r"font-size: \1px", text)
    text = re.sub(r"font-family: [^;\"]*;? ?", "", text)
    for colour_name, colour in palette.named().items():
        text = text.replace(colour, f"var(--{colour_name})")
    return text.replace("<svg", f'<svg role="img" aria-label="{name}"', 1)
