"""Ten thousand swaps neither leak nor pass the budget; the file tests/renderer/swaps.py does them."""

from __future__ import annotations

import json
import os
import subprocess
import sys

from tests.conftest import REPOSITORY

SWAPS = int(os.environ.get("SPLATFLEET_STRESS_SWAPS", "1500"))  # 10,000 take half a minute of a quiet machine


def test_random_swaps_between_scenes_that_do_not_fit_together() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.renderer.swaps", str(SWAPS)],
        capture_output=True,
        text=True,
        check=False,
        cwd=REPOSITORY,
        timeout=170,
    )
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout)
    print(figures)
    assert figures["evictions"] > 0.8 * figures["loads"] >= 0.8 * SWAPS
    assert figures["highest_bytes"] <= figures["budget_bytes"]
    assert figures["draining_bytes"] == 0
    assert figures["rss_peak_bytes"] <= 1.02 * figures["rss_first_200_bytes"]
