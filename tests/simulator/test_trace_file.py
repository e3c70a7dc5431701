"""Files of traces that are damaged or hold what nobody can play: one line says which file, what, and what would do."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

from fleet.traffic import TraceError
from simulator.scene_trace import read_scene_trace
from simulator.trace_file import read_trace
from splatfleet.__main__ import main

RATES = "timestamp_s,requests\n" + "".join(f"{n * 300},{n % 288}\n" for n in range(1500))
SCENES = "timestamp_s,object,requests\n" + "".join(f"{n},object-{n % 97},{n % 13}\n" for n in range(5000))
VERBS = [
    ("backtest", "--trace", "{rates}"),
    ("simulate", "forecast", "--trace", "{rates}"),
    ("simulate", "scaling", "--trace", "{rates}"),
    ("simulate", "scaling", "--trace", "{good}", "--scenes", "2", "--scene-popularity", "{scenes}"),
    ("simulate", "placement", "--scene-trace", "{scenes}"),
    ("load", "--gateway", "http://127.0.0.1:1", "--trace", "{rates}"),
]


def cut(text: str) -> bytes:
    packed = gzip.compress(text.encode())
    return packed[: len(packed) // 2]


def flipped(text: str) -> bytes:
    packed = bytearray(gzip.compress(text.encode()))
    packed[len(packed) // 3] ^= 0xFF
    return bytes(packed)


def with_a_wrong_sum(text: str) -> bytes:
    packed = bytearray(gzip.compress(text.encode()))
    packed[-6] ^= 1
    return bytes(packed)


@pytest.mark.parametrize("damage", [cut, flipped, with_a_wrong_sum])
def test_a_damaged_gzip_file_is_named_by_whoever_reads_it(tmp_path: Path, damage: Callable[[str], bytes]) -> None:
    rates, scenes = tmp_path / "rates.csv.gz", tmp_path / "scenes.csv.gz"
    rates.write_bytes(damage(RATES))
    scenes.write_bytes(damage(SCENES))
    with pytest.raises(TraceError, match=r"rates\.csv\.gz: the gzip file is cut or damaged"):
        read_trace(rates)
    with pytest.raises(TraceError, match=r"scenes\.csv\.gz: the gzip file is cut or damaged"):
        read_scene_trace(scenes)


@pytest.mark.parametrize("words", VERBS)
def test_a_verb_says_in_a_line_which_file_is_damaged(tmp_path: Path, words: tuple[str, ...]) -> None:
    files = {name: tmp_path / f"{name}.csv.gz" for name in ("rates", "scenes", "good")}
    files["rates"].write_bytes(cut(RATES))
    files["scenes"].write_bytes(cut(SCENES))
    files["good"].write_bytes(gzip.compress(RATES.encode()))
    result = CliRunner().invoke(main, [word.format(**files) for word in words])
    assert result.exit_code == 2, result.output
    last = result.output.splitlines()[-1]
    named = files["scenes" if "{scenes}" in words else "rates"]
    assert str(named) in last, last
    assert isinstance(result.exception, SystemExit)


def test_a_byte_order_mark_is_skipped(tmp_path: Path) -> None:
    rates, scenes = tmp_path / "rates.csv", tmp_path / "scenes.csv"
    rates.write_text(RATES, encoding="utf-8-sig")
    scenes.write_text(SCENES, encoding="utf-8-sig")
    assert read_trace(rates).counts.size == 1500
    assert read_scene_trace(scenes).scene.size == 5000


def test_what_is_not_utf_8_is_named(tmp_path: Path) -> None:
    file = tmp_path / "latin.csv"
    file.write_bytes("timestamp_s,requests\n0,é\n".encode("latin-1"))
    for read in (read_trace, read_scene_trace):
        with pytest.raises(TraceError, match=r"latin\.csv: byte 23 is not UTF-8"):
            read(file)


@pytest.mark.parametrize("count", ["1e15", "1e300"])
@pytest.mark.parametrize("words", [words for words in VERBS if "{rates}" in words])
def test_a_count_that_nobody_can_play_is_refused_with_its_line(
    tmp_path: Path, words: tuple[str, ...], count: str
) -> None:
    file = tmp_path / "huge.csv"
    file.write_text("timestamp_s,requests\n0,1\n" + "".join(f"{n * 300},{count}\n" for n in range(1, 1500)))
    result = CliRunner().invoke(main, [word.format(rates=file) for word in words])
    assert result.exit_code == 2, result.output
    assert f"line 3 is '300,{count}', expected at most 1e+09 requests a bin" in result.output


def test_a_history_of_too_many_requests_is_refused_before_they_are_drawn(tmp_path: Path) -> None:
    file = tmp_path / "many.csv"
    file.write_text("timestamp_s,requests\n" + "".join(f"{n * 300},9e8\n" for n in range(1500)))
    result = CliRunner().invoke(main, ["backtest", "--trace", str(file)])
    assert result.exit_code == 1
    assert "requests are too many to play one by one, expected at most 5e+08" in result.output


@pytest.mark.parametrize("words", [VERBS[0], VERBS[2], VERBS[5]])
def test_a_trace_without_a_request_says_so(tmp_path: Path, words: tuple[str, ...]) -> None:
    file = tmp_path / "zero.csv"
    file.write_text("timestamp_s,requests\n" + "".join(f"{n * 300},0\n" for n in range(1500)))
    result = CliRunner().invoke(main, [word.format(rates=file) for word in words])
    assert isinstance(result.exception, SystemExit)
    assert "no request" in result.output or "mean of 0" in result.output, result.output
    assert "division" not in result.output
