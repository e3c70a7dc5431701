"""The live view on real rich consoles: the log's lines, and a screen that fits whatever the run holds."""

from __future__ import annotations

import io
import re
import threading
from dataclasses import replace

import pytest
from rich.console import Console

from local_fleet.live import REFRESH_EVERY_S, LiveView, moment_line
from local_fleet.screen import draw, runs, scene_cells, shorten
from local_fleet.timeline import DecisionView, Moment, NodeView, PodView, Timeline
from tests.local_fleet.synthetic_run import make_timeline

NOTHING = Moment(0.0, None, None, None, 0.0, 0, 0, 0, None, None, None, 0.0, (), (), None)
FULL = make_timeline(60.0)


class Clock:
    """A clock that the test moves."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def log_of(timeline: Timeline, every_s: float = 5.0) -> list[str]:
    """What a run of one moment a second writes where there is no terminal."""
    clock, out = Clock(), io.StringIO()
    with LiveView(Console(file=out), every_s, clock) as view:
        view.note("first pod ready in 2.1 s")
        for moment in timeline.moments:
            view.update(timeline, moment)
            clock.now_s += 1.0
    return out.getvalue().splitlines()


def test_without_a_terminal_there_is_one_line_every_few_seconds() -> None:
    note, *lines = log_of(FULL)
    assert note == "first pod ready in 2.1 s"
    assert [line.split()[0] for line in lines] == [f"t={t}s" for t in range(0, 60, 5)]
    keys = [
        "t",
        "demand",
        "forecast",
        "capacity",
        "ready",
        "starting",
        "desired",
        "pending",
        "ratio",
        "cpu",
        "decision",
    ]
    assert all([pair.split("=")[0] for pair in line.split(" ")] == keys for line in lines)
    assert not any("\x1b" in line for line in lines)


def test_a_line_has_the_numbers_with_their_units() -> None:
    moment = replace(
        NOTHING, t_s=12.2, demand_per_s=31.0, forecast_per_s=44.4, capacity_per_s=40.0, desired_replicas=7,
        ready_replicas=6, starting_replicas=1, pending=0.0, queue_to_compute=0.123, machine_cpu_ratio=0.48,
        decision=DecisionView(12.0, 7, "forecast", "needs 7"),
    )  # fmt: skip
    assert moment_line(moment) == (
        "t=12s demand=31/s forecast=44/s capacity=40/s ready=6 starting=1 desired=7 pending=0 ratio=0.12 cpu=48% "
        "decision=7/forecast"
    )


def test_no_data_is_a_dash_and_not_a_zero() -> None:
    line = moment_line(NOTHING)
    assert "demand=- forecast=- capacity=0/s" in line
    assert "pending=- ratio=-" in line
    assert line.endswith("decision=-")


def test_markup_in_a_note_is_text() -> None:
    out = io.StringIO()
    with LiveView(Console(file=out)) as view:
        view.note("pod [red]x[/red] failed: [Errno 2]")
    assert out.getvalue() == "pod [red]x[/red] failed: [Errno 2]\n"


@pytest.mark.parametrize("width", [60, 80, 100, 140, 200])
@pytest.mark.parametrize("height", [10, 24, 50])
def test_the_screen_fits(width: int, height: int) -> None:
    for count in (1, 7, 30, 60):
        run = replace(FULL, moments=FULL.moments[:count], decisions=FULL.decisions[:count])
        lines = draw(run, run.moments[-1], width, height)
        assert len(lines) <= height
        assert max(line.cell_len for line in lines) <= width


@pytest.mark.parametrize("width", [20, 60, 140])
def test_the_screen_bears_a_run_of_which_nothing_is_known(width: int) -> None:
    run = Timeline("empty", "reactive", "spread", 0.0, 0.0, 0.0, moments=[NOTHING])
    text = "\n".join(line.plain for line in draw(run, NOTHING, width, 24))
    assert "splatfleet" in text


def test_the_screen_shows_nodes_slices_scenes_and_reasons() -> None:
    lines = [line.plain for line in draw(FULL, FULL.moments[-1], 140, 40)]
    text = "\n".join(lines)
    moment = FULL.moments[-1]
    assert all(node.name in text for node in moment.nodes)
    assert all(pod.uid.rpartition("-")[2] in text for pod in moment.pods)
    assert any(scene in text for pod in moment.pods for scene in pod.scenes)
    assert FULL.decisions[-1].explanation in text
    assert f"pods {moment.ready_replicas} of {moment.desired_replicas}" in text
    demand = re.search(r"demand +(\S+)/s", text)
    assert demand is not None
    assert float(demand[1]) == pytest.approx(moment.demand_per_s or 0.0, abs=0.5)


def test_every_pod_of_a_node_is_shown_even_where_slices_are_unnamed() -> None:
    pods = tuple(PodView(f"p-{n:03d}", "node-1", "ready", "", ("garden",)) for n in range(3))
    waiting = PodView("p-900", "", "scheduling", "", ("garden",))
    node = NodeView("node-1", 2, 2, 0, 0, ())
    moment = replace(NOTHING, nodes=(node,), pods=(*pods, waiting))
    text = "\n".join(line.plain for line in draw(FULL, moment, 120, 40))
    assert all(number in text for number in ("000", "001", "002"))
    assert "no slice yet: 900" in text


def test_chart_bars_follow_the_demand() -> None:
    low, high = replace(NOTHING, t_s=0.0, demand_per_s=1.0), replace(NOTHING, t_s=30.0, demand_per_s=10.0)
    last = replace(high, t_s=59.0)
    run = Timeline("steps", "predictive", "scenes", 60.0, 60.0, 1.0, moments=[low, high, last])
    bars = [line.plain[7:-19] for line in draw(run, last, 100, 40)[3:8]]
    assert bars[0].strip("█ ") == ""
    left, right = bars[0][: len(bars[0]) // 2 - 2], bars[0][len(bars[0]) // 2 + 2 :]
    assert "█" not in left
    assert right.rstrip().count("█") == len(right.rstrip())


def test_on_a_terminal_it_draws_and_leaves_the_last_moment() -> None:
    clock, out = Clock(), io.StringIO()
    with LiveView(Console(file=out, force_terminal=True, width=100, height=30), now_s=clock) as view:
        view.note("starting gateway")
        for moment in FULL.moments:
            view.update(FULL, moment)
            clock.now_s += 0.1
    text = out.getvalue()
    assert "starting gateway" in text
    assert text.count("splatfleet ") <= 60 * 0.1 / REFRESH_EVERY_S + 3  # whatever the ticks
    assert "0:59 of 1:00" in text[text.rindex("splatfleet ") :]
    assert text.count("\x1b[?25l") == text.count("\x1b[?25h") == 1  # the cursor is back


def test_the_terminal_is_given_back_after_an_error() -> None:
    out = io.StringIO()

    def broken_run() -> None:
        with LiveView(Console(file=out, force_terminal=True, width=80, height=30)) as view:
            view.update(FULL, FULL.moments[3])
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        broken_run()
    assert out.getvalue().count("\x1b[?25h") == 1


def test_notes_may_come_from_other_threads() -> None:
    out = io.StringIO()
    with LiveView(Console(file=out, force_terminal=True, width=80, height=30)) as view:
        threads = [threading.Thread(target=view.note, args=(f"pod {n} ready",)) for n in range(20)]
        for thread in threads:
            thread.start()
        view.update(FULL, FULL.moments[10])
        for thread in threads:
            thread.join()
    assert all(f"pod {n} ready" in out.getvalue() for n in range(20))


def test_scene_ids_are_cut_where_it_hurts_least() -> None:
    assert shorten("playbot-l2", 10) == "playbot-l2"
    assert shorten("playbot-of-old-l2", 10) == "playbo…-l2"
    assert shorten("lighthouse", 6) == "light…"
    assert shorten("lighthouse", 2) == "li"
    assert scene_cells(["garden", "playbot-l2"], 12, 2) == ["garden      ", "playbot-l2  "]
    assert scene_cells(["garden", "bonsai", "lighthouse"], 8, 1) == ["garden+2"]
    assert scene_cells([], 4, 2) == ["    ", "    "]


def test_equal_decisions_fold_into_the_first() -> None:
    decisions = [DecisionView(t, n, r, "") for t, n, r in ((0, 2, "steady"), (1, 2, "steady"), (2, 3, "forecast"))]
    assert [(first.t_s, count) for first, count in runs(decisions)] == [(0, 2), (2, 1)]
