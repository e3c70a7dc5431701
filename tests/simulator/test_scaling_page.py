"""The page of the scaling benchmark: what is written by hand stays, and a goal that is missed is said."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from benchmarks.scaling_page import WHY, Played, write_page
from fleet.traffic import RateTrace
from simulator.scaling import Row


def row(policy: str, knob: float, kind: str, violations: int, cost_ratio: float) -> Row:
    return Row(
        policy, knob, kind, "made", 1, violations / 20_000, cost_ratio, 0.1, 0, 8.0, 40.0, 1.0, 0.1, 12, 0, 20_000, 1.0,
        tuned=kind == "reactive", requests_by_day=(10_000, 10_000), violations_by_day=(violations, 0),
    )  # fmt: skip


def test_the_page_says_who_wins_and_keeps_what_was_written_by_hand(tmp_path: Path) -> None:
    cycle = 600.0 - 500.0 * np.cos(2 * np.pi * np.arange(14 * 96) / 96)
    rows = [row("splatfleet", 0.9, "ours", 30, 1.1), row("keda", 0.7, "reactive", 100, 1.2)]
    start_ups = {30.0: replace(rows[0], violation_ratio=0.001), 420.0: replace(rows[0], violation_ratio=0.004)}
    coverage = {"trace": "rate_made", "horizon_s": 600.0, "pinball_relative": 0.5, "coverage": 0.9}
    coverage |= {"worst_day_coverage": 0.8, "days_near": 0.9}
    chosen = {"made": ("splatfleet", 0.9)}
    played = Played(
        {"made": RateTrace(900.0, cycle)}, {"made": rows}, {"made": start_ups}, chosen, [coverage], 60.0, 30.0
    )
    page = tmp_path / "scaling.md"
    write_page(played, page)
    text = page.read_text()
    assert "| made | keda 0.7 | 0.500 @ 1.20 | 0.150 % @ 1.10 (0.9) | 0.30 |" in text
    assert "| made | keda 0.7 | 0.500 @ 1.20 | splatfleet 0.9 | 0.150 @ 1.10 | 0.30 | 0.92 |" in text
    assert "**0 of 1** (no more violations on 1)" in text
    assert "| made | 1.00 | 0.150 % @ 1.10 (0.9) | none |" in text
    assert "| made | 10 min | 0.500 | 0.900 | 0.80 | 90 % |" in text
    page.write_text(text.replace("## Regular traces", f"{WHY}\n\nBursts.\n\n## Regular traces"))
    write_page(played, page)
    assert page.read_text().count(f"{WHY}\n\nBursts.\n\n## ") == 1
