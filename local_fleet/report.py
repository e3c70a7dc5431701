"""The report of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from local_fleet.load import FrameRecord
from local_fleet.scorecard import Scorecard
from local_fleet.timeline import Timeline


@dataclass(frozen=True, slots=True)
class FrameSample:
    """One rendered frame for the sheet: a picture file that Pillow reads, and what it shows."""

    path: Path
    scene: str
    t_s: float
    pod: str
    credit: str = ""


@dataclass(frozen=True, slots=True)
class Run:
    """All that a report tells of one run."""

    timeline: Timeline
    scorecard: Scorecard
    records: Sequence[FrameRecord]
    frames: Sequence[FrameSample]
    credits: Mapping[str, str]  # scene id -> whom to credit


def write_report(folder: Path, run: Run) -> Path:
    """Write report.html, frames.png and timeline.json into `folder`; the page's path."""
    raise NotImplementedError
