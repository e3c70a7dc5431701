"""Recorded requests for objects as the scenes of pods: which one each start names, in the order in which it happened.

A file has a row a request (`timestamp_s,object[,bytes]` or `seq,object`), or a row a window and object with a count
(`timestamp_s,object,requests,…`). Rows keep their order; windows keep their time, so that what is popular drifts as it
did. Sizes are not taken from the file: web pages are not scenes.
"""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fleet.traffic import MOST_REQUESTS, TraceError
from simulator.trace_file import read_text

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
MOST_TIME_S = 1e15  # beyond, seconds are lost in a float; recorded times are far below


@dataclass(frozen=True, slots=True, eq=False)
class SceneTrace:
    """Objects by rank over the whole file, the most requested 0; `start_s` is None where rows have no windows."""

    scene: Integers  # [rows]
    requests: Floats  # [rows]
    start_s: Floats | None  # [rows], ascending; a window begins then


@lru_cache(4)
def read_scene_trace(path: Path) -> SceneTrace:
    """Read a file, gzipped or not; raises OSError, and TraceError that names the file."""
    text = read_text(path)
    try:
        return _parse(text)
    except TraceError as error:
        raise TraceError(f"{path}: {error}") from error


def _parse(text: str) -> SceneTrace:
    rows = csv.reader(io.StringIO(text, newline=None))
    found: list[tuple[float, str, float]] = []
    try:
        columns = _columns(next(rows, []))
        for row in filter(None, rows):
            read = _parse_row(rows.line_num, row, columns)
            if columns[2] >= 0 and found and read[0] < found[-1][0]:
                told = f"line {rows.line_num} is {','.join(row)[:80]!r}, expected a time of {found[-1][0]:g} or later"
                raise TraceError(f"{told}: sort the rows by time")
            found.append(read)
    except csv.Error as error:
        raise TraceError(f"line {rows.line_num} is no line of a CSV file: {error}") from error
    if not found:
        raise TraceError("holds no row")
    times_s, names, counts = zip(*found, strict=True)
    requests = np.array(counts)
    if not requests.any():
        raise TraceError("every count of requests is 0, expected one above 0")
    objects, index = np.unique(names, return_inverse=True)
    total = np.bincount(index, weights=requests, minlength=len(objects))
    rank = np.empty(len(objects), np.int64)
    rank[np.argsort(-total, kind="stable")] = np.arange(len(objects))
    return SceneTrace(rank[index], requests, np.array(times_s) if columns[2] >= 0 else None)


def _columns(named: list[str]) -> tuple[int, int, int]:
    """Where the time, the object and the count stand in a row; the last is -1 where there is none."""
    clock = "timestamp_s" if "timestamp_s" in named else "seq"
    if clock not in named or "object" not in named:
        told = ", ".join(named)[:80]
        raise TraceError(f"columns are {told}, expected timestamp_s or seq, object, [requests]")
    return named.index(clock), named.index("object"), named.index("requests") if "requests" in named else -1


def _parse_row(number: int, row: list[str], columns: tuple[int, int, int]) -> tuple[float, str, float]:
    clock, named, counted = columns
    try:
        time_s, name = float(row[clock]), row[named]
        count = float(row[counted] or 1.0) if 0 <= counted < len(row) else 1.0
    except (IndexError, ValueError) as error:
        raise TraceError(f"line {number} is {','.join(row)[:80]!r}, expected a time, an object and a count") from error
    if not (abs(time_s) <= MOST_TIME_S and name.strip() and 0 <= count <= MOST_REQUESTS):
        raise TraceError(
            f"line {number} is {','.join(row)[:80]!r}, expected a time, the name of an object"
            f" and a count of 0 to {MOST_REQUESTS:g}"
        )
    return time_s, name, count


def scenes_of(trace: SceneTrace, scenes: int, arrive_s: Floats, random: np.random.Generator) -> Integers:
    """The scene of each arrival from the trace's `scenes` most requested objects, from a place that `random` picks.

    Rows: one after another, from the start again after the last. Windows: drawn by the counts of the one at that time.
    """
    kept = trace.scene < scenes
    scene, requests = trace.scene[kept], trace.requests[kept]
    if trace.start_s is None:
        at = (int(random.integers(len(scene))) + np.arange(len(arrive_s))) % len(scene)
        taken: Integers = scene[at]
        return taken
    starts_s, first = np.unique(trace.start_s[kept], return_index=True)
    span_s = float(starts_s[-1] - starts_s[0]) + 1.0
    at_s = starts_s[0] + (random.random() * span_s + arrive_s) % span_s
    window = np.searchsorted(starts_s, at_s, side="right") - 1
    ends = np.append(first[1:], len(scene))
    cumulative = np.concatenate([[0.0], np.cumsum(requests)])
    low, high = cumulative[first[window]], cumulative[ends[window]]
    drawn = low + random.random(len(arrive_s)) * (high - low)
    row = np.clip(np.searchsorted(cumulative, drawn, side="right") - 1, first[window], ends[window] - 1)
    found: Integers = scene[row]
    return found
