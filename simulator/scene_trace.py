"""Recorded requests for objects as the scenes of pods: which one each start names, in the order in which it happened.

A file has a row a request (`timestamp_s,object[,bytes]` or `seq,object`), or a row a window and object with a count
(`timestamp_s,object,requests,…`). Rows keep their order; windows keep their time, so that what is popular drifts as it
did. Sizes are not taken from the file: web pages are not scenes.
"""

from __future__ import annotations

import csv
import gzip
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fleet.traffic import TraceError

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class SceneTrace:
    """Objects by rank over the whole file, the most requested 0; `start_s` is None where rows have no windows."""

    scene: Integers  # [rows]
    requests: Floats  # [rows]
    start_s: Floats | None  # [rows], ascending; a window begins then


@lru_cache(4)
def read_scene_trace(path: Path) -> SceneTrace:
    """Read a file, gzipped or not; raises TraceError and OSError."""
    with gzip.open(path, "rt") if path.suffix == ".gz" else path.open() as file:
        rows = csv.DictReader(file)
        named = rows.fieldnames or []
        clock = "timestamp_s" if "timestamp_s" in named else "seq"
        if clock not in named or "object" not in named:
            raise TraceError(f"{path}: columns are {', '.join(named)}, expected timestamp_s or seq, object, [requests]")
        try:
            found = [(float(row[clock]), row["object"], float(row.get("requests") or 1.0)) for row in rows]
        except (TypeError, ValueError) as error:
            raise TraceError(f"{path}: {error}") from error
    if not found:
        raise TraceError(f"{path}: holds no row")
    objects, index = np.unique([name for _, name, _ in found], return_inverse=True)
    requests = np.array([count for *_, count in found])
    total = np.bincount(index, weights=requests, minlength=len(objects))
    rank = np.empty(len(objects), np.int64)
    rank[np.argsort(-total, kind="stable")] = np.arange(len(objects))
    start_s = np.array([at_s for at_s, *_ in found]) if "requests" in named else None
    return SceneTrace(rank[index], requests, start_s)


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
