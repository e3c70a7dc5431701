"""The benchmark of a tick: it measures, and a tick costs a sliver of a history."""

from __future__ import annotations

import json
from pathlib import Path

from click.testing import CliRunner

from benchmarks.autoscaler import BIN_S, HISTORY, Fleet
from splatfleet.bench import COMMAND


def test_a_tick_over_one_pool(tmp_path: Path) -> None:
    target = tmp_path / "out.json"
    result = CliRunner().invoke(COMMAND, ["autoscaler", "--pools", "1", "--ticks", "4", "--json", str(target)])
    assert result.exit_code == 0, result.output
    figures = json.loads(target.read_text())
    assert (figures["pools"], figures["ticks"]) == (1, 4)
    assert 0 < figures["tick_cpu_s_mean"] < figures["build_s_mean"] / 10
    assert figures["tick_wall_s_p99"] > 0
    assert figures["peak_rss_mb"] > 50
    assert "tick_cpu_s_mean" in result.output
    assert "1 of 1 pools are forecast" in result.output


def test_its_pools_get_new_data_however_long_a_restart_takes() -> None:
    fleet, now_s = Fleet(1, 60), HISTORY * BIN_S
    (pool,) = fleet.pools()
    before, after = fleet.observe(pool, now_s), fleet.observe(pool, now_s + 3590.0)
    assert 0 <= after.data_age_s < BIN_S
    assert after.demand.size == before.demand.size == HISTORY
    assert after.demand[:-59].tolist() == before.demand[59:].tolist()
