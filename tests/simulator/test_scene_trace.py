"""Recorded objects as scenes: in their order, in their time, with their popularity."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from fleet.traffic import TraceError
from simulator.scene_trace import read_scene_trace, scenes_of
from splatfleet.__main__ import main


def random(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_rows_keep_their_order_and_only_the_popular_are_scenes(tmp_path: Path) -> None:
    file = tmp_path / "obj.csv.gz"
    with gzip.open(file, "wt") as out:
        out.write("seq,object\n" + "".join(f"{n},{name}\n" for n, name in enumerate("abacabadab")))
    trace = read_scene_trace(file)
    assert trace.scene.tolist()[:4] == [0, 1, 0, 2]
    drawn = scenes_of(trace, 2, np.arange(20.0), random())
    order = [0, 1, 0, 0, 1, 0, 0, 1]  # c and d are left out
    assert any(drawn[:8].tolist() == order[turn:] + order[:turn] for turn in range(8))
    assert (drawn[:8] == drawn[8:16]).all(), "after the last row the first comes again"


def test_windows_keep_their_time_and_their_shares(tmp_path: Path) -> None:
    file = tmp_path / "obj.csv"
    file.write_text("timestamp_s,object,requests\n0,a,900\n0,b,100\n600,b,1000\n1200,c,5000\n")
    trace = read_scene_trace(file)
    arrive_s = np.linspace(0.0, 1200.0, 6000)
    for seed in range(3):
        scene = scenes_of(trace, 3, arrive_s, random(seed))
        names = np.array(["c", "b", "a"])[scene]  # by rank
        only_c = names == "c"
        assert 0.3 < (names == "b").mean() < 0.7
        runs = np.flatnonzero(np.diff(only_c.astype(int)))
        assert len(runs) <= 2, "a window's scenes came outside of its time"
        of_a = (names == "a").sum() / max(1, ((names == "a") | (names == "b")).sum())
        assert 0.3 < of_a < 0.6


WINDOWS = "timestamp_s,object,requests\n1,a,2\n"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("time,what\n1,a\n", "expected timestamp_s or seq"),
        ("seq,object\n", "no row"),
        ("", "expected timestamp_s or seq"),
        ("seq,object\nx,a\n", "line 2 is 'x,a', expected a time, an object"),
        ("seq,object\n1,a\n2\n", "line 3 is '2', expected a time, an object"),
        ("seq,object\n1,\n", "line 2 is '1,', expected a time, the name of an object"),
        ("seq,object\n1, \n", "line 2 is '1, ', expected a time, the name of an object"),
        ("seq,object\n1," + "a" * 200_000, "line 2 is no line of a CSV file: field larger"),
        ("seq,object\nnan,a\n", "line 2 is 'nan,a', expected a time"),
        (WINDOWS + "inf,a,1\n", "line 3 is 'inf,a,1', expected a time"),
        (WINDOWS + "1e308,a,1\n", "line 3 is '1e308,a,1', expected a time"),
        (WINDOWS + "2,a,nan\n", "line 3 is '2,a,nan', .* a count of 0 to"),
        (WINDOWS + "2,a,-5\n", "line 3 is '2,a,-5', .* a count of 0 to"),
        (WINDOWS + "2,a,inf\n", "line 3 is '2,a,inf', .* a count of 0 to"),
        (WINDOWS + "2,a,1e300\n", "line 3 is '2,a,1e300', .* a count of 0 to"),
        (WINDOWS + "2,a,many\n", "line 3 is '2,a,many', expected a time, an object and a count"),
        (WINDOWS + "3,b,1\n\n2,a,1\n", "line 5 is '2,a,1', expected a time of 3 or later: sort the rows"),
        (WINDOWS.replace("2", "0"), "every count of requests is 0"),
    ],
)
def test_what_is_no_trace_is_named(tmp_path: Path, text: str, says: str) -> None:
    file = tmp_path / "obj.csv"
    file.write_text(text)
    with pytest.raises(TraceError, match=rf"obj\.csv: .*{says}"):
        read_scene_trace(file)
    result = CliRunner().invoke(main, ["simulate", "placement", "--scene-trace", str(file)])
    assert result.exit_code == 2
    assert "--scene-trace" in result.output
    assert isinstance(result.exception, SystemExit)


def test_recorded_objects_are_placed(data_dir: Path) -> None:
    words = ["simulate", "placement", "--policies", "splatfleet,random", "--seeds", "1", "--processes", "1"]
    words += ["--arrivals", "400", "--warm-up", "100", "--nodes", "4", "--scenes", "20"]
    for name in ("obj_nasa_19950801a", "obj_servegen_mlarge"):
        file = data_dir / "traces" / f"{name}.csv.gz"
        result = CliRunner().invoke(main, [*words, "--scene-trace", str(file)])
        assert result.exit_code == 0, result.output
        assert "| splatfleet |" in result.output
    both = CliRunner().invoke(main, [*words, "--scene-trace", str(file), "--drift-per-h", "0.1"])
    assert both.exit_code == 2
