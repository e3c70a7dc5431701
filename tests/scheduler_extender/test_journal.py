"""Recorded decisions come out the same, bit for bit, in another process; a line that was touched is found."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from scheduler_extender.journal import Journal, JournalError, RecordedCluster, replay
from scheduler_extender.prices import Prices
from splatfleet.__main__ import main
from tests.scheduler_extender.conftest import GB, digest
from tests.scheduler_extender.test_cluster import EVENTS, NODES, apply, pod


def splatfleet(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "splatfleet", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def busy_day(path: Path, most_bytes: int = 1 << 30, file_bytes: int = 1 << 30) -> None:
    """Digests, bindings, deletions, expiries and 40 decisions."""
    journal = Journal(path, most_bytes, file_bytes)
    cluster = RecordedCluster(journal.write, NODES, Prices(), 5.0)
    for number in range(40):
        now_s = number * 1.7
        name = NODES[number % 3]
        scene = "abcd"[number % 4]
        cluster.apply_digest(name, digest(name, {scene: GB + number}, capacity_bytes=12 * GB, free_bytes=number), now_s)
        cluster.expire(now_s)
        asked = pod(f"uid-{number}", "abcd"[number % 3])
        cluster.reserve(cluster.decide(asked, list(NODES), now_s), now_s)
        if number % 2:
            cluster.set_pod(replace(asked, node=NODES[number % 3]), now_s)
        if number % 5 == 4:
            cluster.remove_pod(f"uid-{number - 4}", now_s)
        if number % 3:
            cluster.confirm_digest(name, now_s + 0.5)
    cluster.settle()


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(EVENTS, max_size=30))
def test_any_course_of_events_replays(events: list[tuple[object, ...]]) -> None:
    lines: list[bytes] = []
    cluster = RecordedCluster(lambda line, _: lines.append(line), NODES, Prices(), 30.0)
    now_s = 0.0
    for event in events:
        now_s += event[1] if event[0] == "time" else 0.1  # type: ignore[operator]
        apply(cluster, event, now_s)
    cluster.settle()
    made = list(replay(lines))
    assert [again.difference for again in made] == [""] * sum(event[0] == "placed" for event in events)


def test_another_process_comes_to_the_same_bits(tmp_path: Path) -> None:
    path = tmp_path / "decisions.jsonl"
    busy_day(path)
    done = splatfleet("replay", str(path), "--pod", "uid-39", "--json", str(tmp_path / "out.json"))
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("40 decisions made again, 40 the same bit for bit, 0 differ")
    figures = json.loads((tmp_path / "out.json").read_text())
    assert (figures["decisions"], figures["differing"]) == (40, 0)
    recorded = [line for line in map(json.loads, path.read_text().splitlines()) if line["kind"] == "decision"][-1]
    fitting = [line for line in figures["explanation"]["nodes"] if line["fits"]]
    best = min(fitting, key=lambda line: line["total_s"])
    assert figures["explanation"]["winner"] == recorded["winner"]
    assert best == recorded["best"][0]


@pytest.mark.parametrize(
    ("kind", "old", "new", "message"),
    [
        ("digest", '"free_bytes":0', '"free_bytes":1', "lines of state"),
        ("decision", '"winner":"n', '"winner":"m', "winner was m"),
        ("decision", '"numbers":"', '"numbers":"0', "other numbers"),
    ],
)
def test_what_was_touched_is_found(tmp_path: Path, kind: str, old: str, new: str, message: str) -> None:
    path = tmp_path / "decisions.jsonl"
    busy_day(path)
    lines = path.read_text().splitlines(keepends=True)
    place = next(number for number, line in enumerate(lines) if f'"kind":"{kind}"' in line and old in line)
    lines[place] = lines[place].replace(old, new, 1)
    path.write_text("".join(lines))
    done = CliRunner().invoke(main, ["replay", str(path)])
    assert done.exit_code == 1
    assert message in done.stdout


def test_what_is_no_journal_is_refused(tmp_path: Path) -> None:
    for text, message in (("{}\n", "line 1"), ('{"kind":"start","version":99}\n', "version 1"), ("x\n", "line 1")):
        path = tmp_path / "wrong.jsonl"
        path.write_text(text)
        done = CliRunner().invoke(main, ["replay", str(path)])
        assert (done.exit_code, message in done.stderr) == (1, True), done.stderr
    assert CliRunner().invoke(main, ["replay", str(tmp_path / "absent")]).exit_code == 2
    with pytest.raises(JournalError, match="another run"):
        Journal(tmp_path / "wrong.jsonl", 1000)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda lines: [lines[0], b'{"kind":"node","node":"\xe9"}\n', *lines[1:]], "line 2: "),
        (lambda lines: [lines[0], b"[" * 100_000 + b"\n", *lines[1:]], "line 2: "),
        (lambda lines: [b"[" * 9_000 + b"\n", *lines], "line 1 is b'[[["),
        (lambda lines: [b"[" * 100_000 + b"\n", *lines], "line 1 is b'[[["),
        (lambda lines: [b"\xff\n", *lines], "line 1 is b'"),
    ],
)
def test_a_damaged_journal_is_told_in_a_line(
    tmp_path: Path, damage: Callable[[list[bytes]], list[bytes]], message: str
) -> None:
    path = tmp_path / "decisions.jsonl"
    busy_day(path)
    path.write_bytes(b"".join(damage(path.read_bytes().splitlines(keepends=True))))
    done = CliRunner().invoke(main, ["replay", str(path)])
    assert done.exit_code == 1
    assert isinstance(done.exception, SystemExit)
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_the_file_stops_at_its_size_and_still_replays(tmp_path: Path) -> None:
    path = tmp_path / "decisions.jsonl"
    busy_day(path, most_bytes=10_000)
    assert 10_000 <= path.stat().st_size < 12_000
    with path.open("rb") as lines:
        made = list(replay(lines))
    assert made
    assert all(not again.difference for again in made)


def test_full_files_are_numbered_and_replay_as_one(tmp_path: Path) -> None:
    whole, path = tmp_path / "whole.jsonl", tmp_path / "decisions.jsonl"
    busy_day(whole)
    busy_day(path, file_bytes=5_000)
    numbered = sorted(tmp_path.glob("decisions.jsonl.*"), key=lambda each: int(each.suffix[1:]))
    assert len(numbered) > 3
    assert all(each.stat().st_size <= 5_000 for each in numbered)
    assert b"".join(each.read_bytes() for each in (*numbered, path)) == whole.read_bytes()
    done = CliRunner().invoke(main, ["replay", str(path)])
    assert done.exit_code == 0, done.output
    assert "40 decisions made again, 40 the same bit for bit" in done.stdout
    with pytest.raises(JournalError, match="another run"):
        Journal(tmp_path / "decisions.jsonl", 1000)
    numbered[1].unlink()
    done = CliRunner().invoke(main, ["replay", str(path)])
    assert (done.exit_code, "decisions.jsonl.2 is missing" in done.stderr) == (1, True), done.stderr
