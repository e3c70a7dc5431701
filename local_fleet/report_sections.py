"""The parts of the report that are words and tables. Whatever came from outside is escaped here."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from local_fleet import quantities
from local_fleet.frame_sheet import FrameSample, data_url
from local_fleet.scorecard import Scorecard, to_json
from local_fleet.scorecard_table import SECTIONS
from local_fleet.screen import runs
from local_fleet.timeline import DecisionView


def headline(card: Scorecard) -> str:
    """The numbers that one asks for first."""
    looked_up = card.scene_hits + card.scene_misses
    hit_ratio = card.scene_hits / looked_up if looked_up else None
    mean_pods = quantities.number(card.mean_pods, 1)
    tiles = (
        _tile(
            "violations", quantities.percent(card.violation_ratio), f"{card.violations:,} of {card.requests:,} requests"
        ),
        _tile("wait p99", quantities.seconds(card.wait_p99_s), f"p50 {quantities.seconds(card.wait_p50_s)}"),
        _tile("frame p99", quantities.seconds(card.frame_p99_s), f"p50 {quantities.seconds(card.frame_p50_s)}"),
        _tile("pod-seconds", f"{card.pod_seconds:,.0f}", f"{mean_pods} pods on average, {card.peak_pods} at the peak"),
        _tile("scene hits", quantities.percent(hit_ratio), f"{card.scene_misses:,} frames met a pod without it"),
        _tile("bytes fetched", quantities.data(card.bytes_fetched), "by pods and agents, from the scenes' source"),
        _tile(
            "cold requests",
            f"{card.cold_requests:,}",
            f"no pod {card.cold_pod_requests:,}, no scene {card.cold_scene_requests:,}",
        ),
        _tile("forecast coverage", quantities.percent(card.forecast_coverage), "demand stayed under it"),
        _tile(
            "machine CPU p95",
            quantities.percent(card.machine_cpu_ratio_p95),
            f"of {card.machine.get('cores', '?')} cores",
        ),
        _tile("errors", f"{card.errors:,}", f"{card.refused:,} refused", bool(card.errors)),
        _tile("failed starts", f"{card.failed_starts:,}", "of pods", bool(card.failed_starts)),
        _tile("first frame", quantities.seconds(card.first_frame_s), "after the start"),
    )
    return f'<section class="tiles">{"".join(tiles)}</section>'


def decisions_table(decisions: Sequence[DecisionView]) -> str:
    """Time, replicas, reason and explanation of every decision that changed something or its reason."""
    if not decisions:
        return "<p>No decision was made.</p>"
    rows = "".join(
        f"<tr><td class=n>{quantities.clock(decision.t_s)}</td><td class=n>{decision.replicas}</td>"
        f"<td><code>{escape(str(decision.reason))}</code>{f' <small>× {count}</small>' if count > 1 else ''}</td>"
        f"<td>{escape(decision.explanation)}</td></tr>"
        for decision, count in runs(decisions)
    )
    head = "<tr><th class=n>time</th><th class=n>replicas</th><th>reason</th><th>explanation</th></tr>"
    return f'<div class="scroll"><table><thead>{head}</thead><tbody>{rows}</tbody></table></div>'


def frames_grid(frames: Sequence[FrameSample], credits: Mapping[str, str]) -> str:
    """The chosen frames with their scenes; below whom to credit, each credit once."""
    if not frames:
        return "<p>No frame was kept.</p>"
    figures = "".join(
        f'<figure><img src="{data_url(frame.path)}" alt="{escape(frame.scene)}" loading="lazy">'
        f"<figcaption><b>{escape(frame.scene)}</b> <small>{quantities.clock(frame.t_s)}, {escape(frame.pod)}</small>"
        f"</figcaption></figure>"
        for frame in frames
    )
    credited: dict[str, set[str]] = {}
    for frame in frames:
        if credit := frame.credit or credits.get(frame.scene, ""):
            credited.setdefault(credit, set()).add(frame.scene)
    lines = "".join(
        f"<li>{escape(credit)} <small>({escape(', '.join(sorted(scenes)))})</small></li>"
        for credit, scenes in credited.items()
    )
    return f'<div class="frames">{figures}</div>' + (f'<ul class="credits">{lines}</ul>' if lines else "")


def figures_table(card: Scorecard) -> str:
    """Every figure of the scorecard, and the decisions by reason."""
    rows = [(row.label, row.write(getattr(card, row.field))) for section in SECTIONS for row in section]
    rows += [(f"decisions: {reason}", str(count)) for reason, count in card.decisions.items()]
    return _pairs(rows)


def settings_table(card: Scorecard) -> str:
    """What shaped the run, as the scorecard holds it."""
    facts: dict[str, Any] = json.loads(to_json(card))
    rows = {"seed": facts["seed"], **facts["settings"], **facts["machine"]}
    return _pairs([(label, value if isinstance(value, str) else json.dumps(value)) for label, value in rows.items()])


def _tile(label: str, value: str, more: str, bad: bool = False) -> str:
    mark = " bad" if bad else ""
    return (
        f'<div class="tile{mark}"><span>{escape(label)}</span><b>{escape(value)}</b><small>{escape(more)}</small></div>'
    )


def _pairs(rows: Sequence[tuple[str, str]]) -> str:
    cells = "".join(f"<div><dt>{escape(label)}</dt><dd>{escape(value)}</dd></div>" for label, value in rows)
    return f'<dl class="pairs">{cells}</dl>'
