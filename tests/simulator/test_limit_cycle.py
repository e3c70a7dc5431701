"""Why the ratio is no target: under demand that never changes its HPA swings from end to end, as the docs show."""

from __future__ import annotations

import runpy
from itertools import pairwise

from tests.conftest import REPOSITORY


def test_a_ratio_target_swings_under_constant_demand_and_ours_stands() -> None:
    counts = runpy.run_path(str(REPOSITORY / "scripts" / "ratio-limit-cycle.py"))["counts"]
    _, pods, late = counts("hpa-ratio", 1.0)
    highest = max(pods)
    far = [count for count in pods if count == highest or count < highest / 2]
    falls = sum(before == highest and after != highest for before, after in pairwise(far))
    assert highest > 10 * min(pods)
    assert falls > 10, "in four hours"
    _, steady, few = counts("splatfleet", 0.95)
    assert max(steady) < 1.5 * min(steady)
    assert few < late / 10
