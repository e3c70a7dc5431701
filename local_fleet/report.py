"""The report of a run: one page that needs nothing beside it, the sheet of frames, and the timeline as JSON."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from PIL import Image

from local_fleet import plots
from local_fleet.frame_sheet import FrameSample as FrameSample
from local_fleet.frame_sheet import choose, write_sheet
from local_fleet.load import WAIT_OBJECTIVE_S, FrameRecord
from local_fleet.plot_style import DARK, LIGHT, Palette, to_svg
from local_fleet.report_sections import decisions_table, figures_table, frames_grid, headline, settings_table
from local_fleet.report_style import STYLE
from local_fleet.scorecard import Scorecard
from local_fleet.scorecard_table import conditions, name, spoilt
from local_fleet.timeline import Timeline

MOMENTS_MOST = 1500  # in timeline.json; a longer run is thinned
CONTENT_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"  # the page may load nothing
TITLES = {  # section -> its title and how to read it
    "traffic": (
        "Demand, forecast and capacity",
        "Capacity is what the ready pods can render. "
        "The forecast is a quantile of the highest demand in the lead window.",
    ),
    "waits": (
        "Wait of every request",
        "From arrival until the render starts, waiting for a pod or a scene included. "
        f"The dashed line is the objective, {WAIT_OBJECTIVE_S:g} s.",
    ),
    "pods": ("Pods by node", "A pod counts from the ask to the end of its process."),
    "scenes": (
        "Scenes in the memory of ready pods",
        "Stronger is more pods. A mark is a request that met a cold fleet.",
    ),
    "pressure": ("Machine and queues", "Busy cores, queue seconds over compute seconds, requests that wait for a pod."),
    "decisions": ("Decisions", "Equal neighbours are folded into the first."),
    "frames": ("Rendered frames", "As the gateway answered them; frames.png has the same sheet as one picture."),
    "figures": ("All figures", "Violations waited over the objective, failed or were refused."),
    "settings": ("Settings and machine", "What shaped the run."),
}


@dataclass(frozen=True, slots=True)
class Run:
    """All that a report tells of one run."""

    timeline: Timeline
    scorecard: Scorecard
    records: Sequence[FrameRecord]
    frames: Sequence[FrameSample] = ()
    credits: Mapping[str, str] = dataclasses.field(default_factory=dict)  # scene id -> whom to credit


def write_report(folder: Path, run: Run) -> Path:
    """Write report.html, timeline.json and, where there are frames, frames.png into `folder`; the page's path.

    A frame that cannot be read is left out. Imports matplotlib.
    """
    folder.mkdir(parents=True, exist_ok=True)
    frames = choose([frame for frame in run.frames if _is_picture(frame.path)])
    if frames:
        write_sheet(folder / "frames.png", frames)
    (folder / "timeline.json").write_text(timeline_json(run.timeline))
    path = folder / "report.html"
    path.write_text(page(run, frames), encoding="utf-8")
    return path


def page(run: Run, frames: Sequence[FrameSample]) -> str:
    """The page as text. Everything that is not ours is escaped; nothing is loaded from elsewhere."""
    card = run.scorecard
    timeline, records = run.timeline, run.records
    title, policy = (
        escape(timeline.title),
        f"{escape(card.autoscaler)} autoscaler, placement by {escape(card.placement)}",
    )
    where = "Kubernetes on one machine" if "kubernetes" in card.settings else "local fleet"
    sections = (
        _section("traffic", _plot("demand", plots.demand_figure(timeline))),
        _section("waits", _plot("wait", plots.wait_figure(timeline, records))),
        _section("pods", _plot("pods", plots.pods_figure(timeline))),
        _section("scenes", _plot("scenes", plots.scenes_figure(timeline, records))),
        _section("pressure", _plot("pressure", plots.pressure_figure(timeline))),
        _section("decisions", decisions_table(timeline.decisions)),
        _section("frames", frames_grid(frames, run.credits)),
        _section("figures", figures_table(card)),
        _section("settings", settings_table(card)),
    )
    return f"""<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>{title}: {escape(name(card))}</title>
<meta name="viewport" content="width=device-width, initial-scale=1"><meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy" content="{CONTENT_POLICY}">
<style>{_colours()}{STYLE}</style></head><body><main>
<header><p class="kicker">Splatfleet, {where}</p><h1>{title}</h1>
<p>{policy}, {escape(conditions(card))}</p>{_warning(card)}</header>
{headline(card)}{"".join(sections)}</main></body></html>
"""


def timeline_json(timeline: Timeline) -> str:
    """The timeline, compact, floats to four digits after the point; `moments_every` says whether it was thinned."""
    every = max(1, -(-len(timeline.moments) // MOMENTS_MOST))
    plain = dataclasses.asdict(dataclasses.replace(timeline, moments=timeline.moments[::every]))
    return json.dumps(_rounded(plain | {"moments_every": every}), separators=(",", ":"))


def _rounded(value: Any) -> Any:
    match value:
        case dict():
            return {key: _rounded(item) for key, item in value.items()}
        case list() | tuple():
            return [_rounded(item) for item in value]
        case float():
            return round(value, 4) if value == value and abs(value) != float("inf") else None
    return value


def _warning(card: Scorecard) -> str:
    said = spoilt(card)
    return f"<p><strong>{escape(said)}</strong></p>" if said else ""


def _section(anchor: str, body: str) -> str:
    title, note = TITLES[anchor]
    return f'<section id="{anchor}"><h2>{escape(title)}</h2><p>{escape(note)}</p>{body}</section>'


def _plot(plot_name: str, figure: Any) -> str:
    return f'<div class="plot">{to_svg(figure, plot_name, LIGHT)}</div>'


def _colours() -> str:
    def variables(palette: Palette) -> str:
        return ":root{" + "".join(f"--{key}:{colour};" for key, colour in palette.named().items()) + "}"

    return f"{variables(LIGHT)}@media(prefers-color-scheme:dark){{{variables(DARK)}}}"


def _is_picture(path: Path) -> bool:
    try:
        with Image.open(path) as image:
            image.verify()
    except (OSError, SyntaxError, ValueError):
        return False
    return True
