"""What the scene cache would miss under other policies, on recorded popularity.

Objects of the traces stand for scenes; their sizes are drawn once, log-normal about 300 MB. A trace that counts
requests a window is thinned to about 200,000 requests and shuffled inside each window. A load takes 0.2 s and 1 s a GB.
"""

from __future__ import annotations

import csv
import gzip
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from benchmarks.cache_policies import (
    FarthestNextUse,
    GreedyDualSizeFrequency,
    LeastRecentlyUsed,
    Policy,
    SceneCachePolicy,
)
from benchmarks.machine import describe

TRACES = ("obj_nasa_19950801a", "obj_cache2k_web12", "obj_servegen_mlarge", "obj_servegen_mmimage")
SHARES = (0.02, 0.05, 0.1, 0.2, 0.4)  # of the bytes of all objects
_MOST_REQUESTS = 200_000
_MEDIAN_BYTES, _SIGMA = 300e6, 0.9


@dataclass(frozen=True, slots=True)
class Row:
    """One trace with one budget; each other policy is relative to LRU, below 1 is better."""

    trace: str
    requests: int
    objects: int
    budget_share: float
    lru_miss_ratio: float
    lru_load_s: float
    misses: dict[str, float]
    load_s: dict[str, float]


def load_seconds(size_bytes: int) -> float:
    """Of a scene that is not in memory."""
    return 0.2 + size_bytes / 1e9


def requests_of(path: Path, seed: int = 0) -> list[int]:
    """The trace as one sequence of objects."""
    with gzip.open(path, "rt") as file:
        rows = list(csv.DictReader(file))
    numbers = {name: number for number, name in enumerate(dict.fromkeys(row["object"] for row in rows))}
    if "requests" not in rows[0]:
        return [numbers[row["object"]] for row in rows]
    rng = np.random.default_rng(seed)
    thin = min(1.0, _MOST_REQUESTS / sum(int(row["requests"]) for row in rows))
    windows: dict[str, list[int]] = {}
    for row in rows:
        count = int(rng.poisson(thin * int(row["requests"])))
        windows.setdefault(row["timestamp_s"], []).extend([numbers[row["object"]]] * count)
    return [name for window in windows.values() for name in rng.permutation(window).astype(int).tolist()]


def sizes_of(objects: int, seed: int = 1) -> list[int]:
    """Bytes of each object, 30 MB to 3 GB."""
    drawn = _MEDIAN_BYTES * np.exp(np.random.default_rng(seed).normal(0, _SIGMA, objects))
    sizes: list[int] = np.clip(drawn, 30e6, 3e9).astype(np.int64).tolist()
    return sizes


def replay(policy: Policy, names: list[int], sizes: list[int]) -> tuple[int, float]:
    """(misses, seconds of loading)."""
    missed = [name for name in names if not policy.request(name, sizes[name])]
    return len(missed), sum(load_seconds(sizes[name]) for name in missed)


def measure(folder: Path, say: Callable[[str], None]) -> list[Row]:
    """Every trace of the folder, every budget that holds its largest object, every policy."""
    rows = []
    for trace in TRACES:
        names = requests_of(folder / f"{trace}.csv.gz")
        sizes = sizes_of(max(names) + 1)
        for share in SHARES:
            budget = int(share * sum(sizes))
            if budget < 2 * max(sizes):
                continue
            say(f"{trace}, budget {share:.0%}")
            misses, load_s = replay(LeastRecentlyUsed(budget), names, sizes)
            others: dict[str, Policy] = {
                "GDSF": GreedyDualSizeFrequency(budget, load_seconds),
                "S3-FIFO": SceneCachePolicy(budget),
                "clairvoyant": FarthestNextUse(budget, names),
            }
            found = {name: replay(policy, names, sizes) for name, policy in others.items()}
            rows.append(
                Row(
                    trace,
                    len(names),
                    len(set(names)),
                    share,
                    misses / len(names),
                    load_s,
                    {name: result[0] / misses for name, result in found.items()},
                    {name: result[1] / load_s for name, result in found.items()},
                )
            )
    return rows


def as_text(rows: list[Row]) -> str:
    """A table: what LRU misses, and the others beside it."""
    names = list(rows[0].misses)
    lines = [f"{'trace':<24}{'budget':>8}{'LRU misses':>12}" + "".join(f"{name:>24}" for name in names)]
    lines.append(f"{'':<44}" + f"{'misses, load s of LRU':>24}" * len(names))
    for row in rows:
        told = "".join(f"{row.misses[name]:>16.2f}, {row.load_s[name]:>6.2f}" for name in names)
        lines.append(f"{row.trace:<24}{row.budget_share:>8.0%}{row.lru_miss_ratio:>12.1%}{told}")
    return "\n".join(lines)


def main(folder: Path, say: Callable[[str], None], json_path: Path | None = None) -> None:
    """Print the table and write the figures."""
    rows = measure(folder, say)
    machine = describe()
    print(as_text(rows))
    print(f"geometric mean over the rows, misses of LRU = 1: {_means(rows)}")
    if json_path is not None:
        figures = {"machine": asdict(machine), "rows": [asdict(row) for row in rows]}
        json_path.write_text(json.dumps(figures, indent=1) + "\n")


def _means(rows: list[Row]) -> str:
    means = {name: np.exp(np.mean([np.log(row.misses[name]) for row in rows])) for name in rows[0].misses}
    return ", ".join(f"{name} {mean:.2f}" for name, mean in means.items())
