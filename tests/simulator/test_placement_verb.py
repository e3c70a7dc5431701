"""`splatfleet simulate placement` as a user runs it."""

from __future__ import annotations

import json
from pathlib import Path

from click.testing import CliRunner

from splatfleet.__main__ import main

FIGURES = ("slice_acceptance", "scene_hit_ratio", "bytes_pulled_ratio", "ready_p95_s", "stranded_slices")
SMALL = ("--arrivals", "300", "--warm-up", "50", "--nodes", "4", "--scenes", "20", "--processes", "1")


def test_json_has_a_row_for_each_policy(tmp_path: Path) -> None:
    file = tmp_path / "out.json"
    names = "splatfleet,cost-0-4,random,oracle-pooled"
    words = ["simulate", "placement", "--policies", names, "--seeds", "2", *SMALL, "--json", str(file)]
    result = CliRunner().invoke(main, words)
    assert result.exit_code == 0, result.output
    assert "| random |" in result.output
    rows = json.loads(file.read_text())["rows"]
    assert [row["policy"] for row in rows] == names.split(",")
    for row in rows:
        for figure in FIGURES:
            assert row[figure]["low"] <= row[figure]["mean"] <= row[figure]["high"]
    assert rows[0]["above_splatfleet"]["slice_acceptance"] == {"mean": 0.0, "low": 0.0, "high": 0.0}
    assert rows[2]["above_splatfleet"]["scene_hit_ratio"]["mean"] < 0


def test_a_wrong_policy_is_named() -> None:
    result = CliRunner().invoke(main, ["simulate", "placement", "--policies", "magic", *SMALL])
    assert result.exit_code == 2
    assert "--policies: 'magic' is none of splatfleet," in result.output


def test_no_scenes_is_null_not_zero(tmp_path: Path) -> None:
    file = tmp_path / "out.json"
    words = ["simulate", "placement", "--policies", "best-fit", "--seeds", "1", *SMALL[:6], "--scenes", "0"]
    assert CliRunner().invoke(main, [*words, "--processes", "1", "--json", str(file)]).exit_code == 0
    (row,) = json.loads(file.read_text())["rows"]
    assert row["scene_hit_ratio"] == {"mean": None, "low": None, "high": None}
    assert row["slice_acceptance"]["mean"] > 0.5
