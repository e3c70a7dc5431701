"""Demand from Prometheus: a real one where it is installed, and faults at the wire."""

from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
import time
import urllib.parse
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from autoscaler.demand import Outcome
from autoscaler.pool import Pool
from autoscaler.prometheus import PrometheusDemand, PrometheusError, within
from tests.autoscaler.wire import Wire, serving

POOL = Pool("renderer", tick_s=15.0)
NOW_S = 1_700_000_040.0


@pytest.fixture
def prometheus() -> Iterator[Wire]:
    with serving() as wire:
        yield wire


def answer(wire: Wire, values: list[tuple[float, str]]) -> None:
    rows = [{"metric": {}, "values": values}] if values else []
    wire.pages["/api/v1/query_range"] = json.dumps(
        {"status": "success", "data": {"resultType": "matrix", "result": rows}}
    )
    wire.pages["/api/v1/query"] = json.dumps({"status": "success", "data": {"resultType": "vector", "result": []}})


def test_bins_gaps_and_what_is_unknown(prometheus: Wire) -> None:
    end_s = math.floor(NOW_S / 60) * 60.0
    answer(prometheus, [(end_s - 240, "12"), (end_s - 120, "NaN"), (end_s - 60, "30"), (end_s, "31.5")])
    source = PrometheusDemand(prometheus.url, history_s=600.0)
    reading = source.read(POOL, NOW_S)
    source.close()
    assert reading.outcome is Outcome.OK
    assert reading.end_s == end_s
    np.testing.assert_equal(reading.demand[-5:], [12.0, math.nan, math.nan, 30.0, 31.5])
    assert np.isnan(reading.demand[:-5]).all()
    assert (reading.pending, reading.queue_to_compute, reading.service, reading.ready) == (None,) * 4


def test_only_what_is_missing_is_asked_again(prometheus: Wire) -> None:
    end_s = math.floor(NOW_S / 60) * 60.0
    answer(prometheus, [(end_s - 60 * i, "30") for i in range(60)])
    source = PrometheusDemand(prometheus.url, history_s=86_400.0)
    source.read(POOL, NOW_S)
    answer(prometheus, [(end_s, "33"), (end_s + 60, "40")])
    prometheus.asked.clear()
    reading = source.read(POOL, NOW_S + 60)
    source.close()
    assert reading.demand[-2:].tolist() == [33.0, 40.0]
    assert reading.demand.size == 1440
    (asked,) = [path for path in prometheus.asked if "query_range" in path]
    assert f"start={end_s - 60:.0f}" in asked


def store(wire: Wire, count: Callable[[float], float | None], warning: str = "") -> None:
    """A Prometheus that has `count` for the bin that ends at a moment, and answers what it is asked."""

    def history(query: str) -> str:
        asked = dict(urllib.parse.parse_qsl(query))
        ends = np.arange(float(asked["start"]), float(asked["end"]) + 1.0, 60.0).tolist()
        values = [(end_s, str(found)) for end_s in ends if (found := count(end_s)) is not None]
        rows = [{"metric": {}, "values": values}] if values else []
        told = {"warnings": [warning]} if warning else {}
        return json.dumps({"status": "success", "data": {"resultType": "matrix", "result": rows}} | told)

    answer(wire, [])
    wire.answers["/api/v1/query_range"] = history


def asked_bins(wire: Wire) -> list[int]:
    """How many bins each range query since the last call asked for."""
    queries = [path.partition("?")[2] for path in wire.asked if "query_range" in path]
    wire.asked.clear()
    found = [dict(urllib.parse.parse_qsl(query)) for query in queries]
    return [round((float(asked["end"]) - float(asked["start"])) / 60) + 1 for asked in found]


def test_what_a_first_answer_with_a_warning_lacked_is_asked_for_again(prometheus: Wire) -> None:
    source = PrometheusDemand(prometheus.url, history_s=86_400.0)
    store(prometheus, lambda end_s: 20.0 if end_s > BIN_END_S - 1800 else None, "a store did not answer")
    assert source.read(POOL, NOW_S).outcome is Outcome.PARTIAL
    store(prometheus, lambda _: 60.0)
    asked_bins(prometheus)
    reading = source.read(POOL, NOW_S + 60)
    assert asked_bins(prometheus) == [1440]
    assert reading.outcome is Outcome.OK
    assert reading.demand.tolist() == [60.0] * 1440
    source.read(POOL, NOW_S + 120)
    source.close()
    assert asked_bins(prometheus) == [3]


def test_warnings_that_stay_cost_a_whole_history_once_an_hour_at_most(prometheus: Wire) -> None:
    source = PrometheusDemand(prometheus.url, history_s=86_400.0)
    store(prometheus, lambda _: 60.0, "a store did not answer")
    long = []
    for minute in range(300):
        source.read(POOL, NOW_S + 60 * minute)
        (bins,) = asked_bins(prometheus)
        long.append(bins > 62)
    source.close()
    assert sum(long[:60]) == 7, "pauses double"
    assert sum(long[-180:]) == 3


def test_a_part_of_the_arrivals_replaces_no_whole_count_and_is_replaced_by_one(prometheus: Wire) -> None:
    source = PrometheusDemand(prometheus.url, history_s=7200.0)
    store(prometheus, lambda _: 60.0)
    source.read(POOL, NOW_S)
    store(prometheus, lambda _: 20.0, "a store did not answer")
    for minute in range(1, 11):
        partial = source.read(POOL, NOW_S + 60 * minute)
    assert partial.demand[-12:].tolist() == [60.0, 60.0] + [20.0] * 10
    store(prometheus, lambda _: 60.0)
    whole = source.read(POOL, NOW_S + 660)
    source.close()
    assert whole.demand.tolist() == [60.0] * 120


def test_samples_that_came_late_are_known_once_they_came(prometheus: Wire) -> None:
    source = PrometheusDemand(prometheus.url, history_s=86_400.0)
    for minute in range(41):
        now_s = NOW_S + 60 * minute
        late_s = 200.0 if 0 < minute <= 30 else 0.0
        store(prometheus, lambda end_s, newest_s=now_s - late_s: 60.0 if end_s <= newest_s else None)
        reading = source.read(POOL, now_s)
        if minute == 30:
            assert np.flatnonzero(np.isnan(reading.demand)).tolist() == [1436, 1437, 1438, 1439]
    source.close()
    assert reading.outcome is Outcome.OK
    assert reading.demand.tolist() == [60.0] * 1440


def test_what_stays_missing_costs_one_query_of_the_last_hour(prometheus: Wire) -> None:
    source = PrometheusDemand(prometheus.url, history_s=86_400.0)
    store(prometheus, lambda end_s: None if end_s <= BIN_END_S else 60.0)
    source.read(POOL, NOW_S)
    asked_bins(prometheus)
    for minute in range(1, 120):
        reading = source.read(POOL, NOW_S + 60 * minute)
        (bins,) = asked_bins(prometheus)
        assert bins == (61 if minute <= 60 else 3)
    source.close()
    assert np.isfinite(reading.demand).sum() == 119


def test_a_history_that_cannot_be_had_whole_does_not_fail_every_read(prometheus: Wire) -> None:
    """The store that was missing is back, and slow: only the last hour of it is there within the deadline."""
    source = PrometheusDemand(prometheus.url, history_s=86_400.0, deadline_s=1.0)
    store(prometheus, lambda _: 20.0, "a store did not answer")
    source.read(POOL, NOW_S)
    asked_bins(prometheus)
    store(prometheus, lambda _: 60.0)
    quick = prometheus.answers["/api/v1/query_range"]

    def slow(query: str) -> str:
        body = quick(query)
        time.sleep(1.5 if len(body) > 5000 else 0.0)
        return body

    prometheus.answers["/api/v1/query_range"] = slow
    outcomes = [source.read(POOL, NOW_S + 60 * minute).outcome for minute in range(1, 4)]
    source.close()
    assert outcomes == [Outcome.UNREACHABLE, Outcome.UNREACHABLE, Outcome.OK]


def test_the_history_of_a_pool_long_gone_goes_with_a_new_one(prometheus: Wire) -> None:
    answer(prometheus, [(math.floor(NOW_S / 60) * 60.0, "33")])
    source = PrometheusDemand(prometheus.url, history_s=600.0)
    for name in ("renderer", "other"):
        source.read(replace(POOL, name=name), NOW_S)
    prometheus.status = 500
    source.read(POOL, NOW_S + 3000.0)
    source.read(replace(POOL, name="new"), NOW_S + 4000.0)
    source.close()
    assert set(source._kept) == {"renderer"}, "an outage takes no history from a pool that is still asked for"


def test_no_series_is_no_data_and_old_series_are_stale(prometheus: Wire) -> None:
    answer(prometheus, [])
    source = PrometheusDemand(prometheus.url, history_s=3600.0)
    fresh = source.read(POOL, NOW_S)
    recorded = PrometheusDemand(prometheus.url, history_s=3600.0, recorded=True)
    assert recorded.read(POOL, NOW_S).detail.endswith(
        'no two samples of pool:splatfleet_gateway_requests:increase1m{pool="renderer"} in 0.0416667 days: '
        "are the recording rules loaded?"
    )
    recorded.close()
    assert fresh.outcome is Outcome.NO_DATA
    assert f'splatfleet_gateway_requests_total{{pool="{POOL.name}"}}' in fresh.detail, "what to look for, and where"
    source.close()
    answer(prometheus, [(math.floor(NOW_S / 60) * 60.0 - 600, "5")])
    source = PrometheusDemand(prometheus.url, history_s=3600.0)
    reading = source.read(POOL, NOW_S)
    source.close()
    assert reading.outcome is Outcome.STALE
    assert "old" in reading.detail


@pytest.mark.parametrize(("text", "outcome"), [("-3", Outcome.BAD_VALUE), ("+Inf", Outcome.BAD_VALUE)])
def test_values_that_are_no_counts(prometheus: Wire, text: str, outcome: Outcome) -> None:
    answer(prometheus, [(math.floor(NOW_S / 60) * 60.0, text)])
    source = PrometheusDemand(prometheus.url, history_s=3600.0)
    reading = source.read(POOL, NOW_S)
    source.close()
    assert reading.outcome is outcome
    assert text in reading.detail


BIN_END_S = math.floor(NOW_S / 60) * 60.0


@pytest.mark.parametrize(
    ("result", "said"),
    [
        (
            [{"metric": {}, "values": [[BIN_END_S, "3"]]}, {"metric": {"x": "y"}, "values": [[BIN_END_S, "4"]]}],
            "2 series",
        ),
        ([{"metric": {}, "values": [[BIN_END_S, "3"], [BIN_END_S, "4"]]}], "two samples at"),
        ([{"metric": {}, "values": [[BIN_END_S + 600, "3"]]}], "where none was asked for"),
        ([{"metric": {}, "values": [[BIN_END_S - 7, "3"]]}], "where none was asked for"),
        ([{"metric": {}, "values": [[BIN_END_S, "many"]]}], "many"),
        ([{"metric": {}}], "values"),
        ([7], ""),
    ],
)
def test_a_history_that_was_not_asked_for_is_refused_and_the_last_one_stays(
    prometheus: Wire, result: list[object], said: str
) -> None:
    answer(prometheus, [(BIN_END_S - 60, "30")])
    source = PrometheusDemand(prometheus.url, history_s=3600.0)
    source.read(POOL, NOW_S - 60)
    body = {"status": "success", "data": {"resultType": "matrix", "result": result}}
    prometheus.pages["/api/v1/query_range"] = json.dumps(body)
    reading = source.read(POOL, NOW_S)
    source.close()
    assert reading.outcome in (Outcome.BAD_VALUE, Outcome.UNREACHABLE), reading
    assert said in reading.detail
    assert reading.demand[-1] == 30.0


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([({}, 0.0, "3"), ({}, 0.0, "4")], "two are of one scene"),
        ([({}, 3600.0, "3")], "3600 s from now"),
    ],
)
def test_an_instant_answer_that_is_twice_or_of_the_future_is_refused(
    prometheus: Wire, rows: list[tuple[dict[str, str], float, str]], said: str
) -> None:
    answer(prometheus, [(BIN_END_S, "30")])
    result = [{"metric": metric, "value": [NOW_S + late_s, text]} for metric, late_s, text in rows]
    body = {"status": "success", "data": {"resultType": "vector", "result": result}}
    prometheus.pages["/api/v1/query"] = json.dumps(body)
    source = PrometheusDemand(prometheus.url, history_s=3600.0)
    reading = source.read(POOL, NOW_S)
    source.close()
    assert reading.outcome is Outcome.BAD_VALUE
    assert said in reading.detail


@pytest.mark.parametrize("ahead_s", [60.0, 3600.0, 7200.0])
def test_a_clock_that_was_ahead_for_one_tick_is_forgiven(prometheus: Wire, ahead_s: float) -> None:
    source = PrometheusDemand(prometheus.url, history_s=3600.0)
    answer(prometheus, [(BIN_END_S - 60 * i, "30") for i in range(60)])
    source.read(POOL, NOW_S)
    answer(prometheus, [])
    source.read(POOL, NOW_S + ahead_s)
    answer(prometheus, [(BIN_END_S, "30"), (BIN_END_S + 60, "40")])
    reading = source.read(POOL, NOW_S + 60)
    source.close()
    assert reading.outcome is Outcome.OK, reading.detail
    assert reading.end_s == BIN_END_S + 60
    assert reading.demand.size == 60
    assert reading.demand[-2:].tolist() == [30.0, 40.0]


@pytest.mark.parametrize("text", ["NaN", "+Inf", "-Inf"])
def test_a_queue_that_is_no_number_is_not_known(prometheus: Wire, text: str) -> None:
    answer(prometheus, [(BIN_END_S, "30")])
    body = {"status": "success", "data": {"result": [{"metric": {}, "value": [NOW_S, text]}]}}
    prometheus.pages["/api/v1/query"] = json.dumps(body)
    source = PrometheusDemand(prometheus.url, history_s=3600.0)
    reading = source.read(POOL, NOW_S)
    source.close()
    assert reading.outcome is Outcome.OK
    assert (reading.pending, reading.queue_to_compute, reading.ready) == (None, None, None)


@pytest.mark.parametrize("page", ["/api/v1/query_range", "/api/v1/query"])
def test_an_answer_with_warnings_is_partial(prometheus: Wire, page: str) -> None:
    answer(prometheus, [(BIN_END_S, "30")])
    whole = json.loads(prometheus.pages[page])
    prometheus.pages[page] = json.dumps(whole | {"warnings": ["a store did not answer"]})
    source = PrometheusDemand(prometheus.url, history_s=3600.0)
    reading = source.read(POOL, NOW_S)
    assert reading.outcome is Outcome.PARTIAL
    assert "a store did not answer" in reading.detail
    assert reading.demand[-1] == 30.0
    prometheus.pages[page] = json.dumps(whole)
    assert source.read(POOL, NOW_S).outcome is Outcome.OK
    source.close()


def test_an_error_keeps_the_history_and_is_not_retried(prometheus: Wire) -> None:
    """503 with Retry-After: 3600, which the library would obey."""
    answer(prometheus, [(math.floor(NOW_S / 60) * 60.0, "30")])
    source = PrometheusDemand(prometheus.url, history_s=600.0, deadline_s=3.0)
    source.read(POOL, NOW_S)
    prometheus.status = 503
    prometheus.asked.clear()
    reading = source.read(POOL, NOW_S + 60)
    source.close()
    assert reading.outcome is Outcome.UNREACHABLE
    assert "503" in reading.detail
    assert reading.demand[-1] == 30.0
    assert len(prometheus.asked) == 1


def test_a_server_that_drips_is_left_after_the_deadline(prometheus: Wire) -> None:
    """A byte now and then defeats every timeout between two reads: twenty bytes each 0.2 s would take far longer."""
    answer(prometheus, [(math.floor(NOW_S / 60) * 60.0 - 60 * i, "30") for i in range(60)])
    prometheus.drip_s = 0.2
    source = PrometheusDemand(prometheus.url, history_s=3600.0, deadline_s=0.5)
    begin_s = time.monotonic()
    reading = source.read(POOL, NOW_S)
    assert time.monotonic() - begin_s < 5.0
    assert reading.outcome is Outcome.UNREACHABLE
    assert "no answer within 0.5 s" in reading.detail


def pools(count: int) -> list[Pool]:
    return [replace(POOL, name=f"p{number}") for number in range(count)]


def test_a_prometheus_that_hangs_takes_one_deadline_a_tick_however_many_pools(prometheus: Wire) -> None:
    source = PrometheusDemand(prometheus.url, history_s=3600.0, deadline_s=0.5)
    store(prometheus, lambda _: 60.0)
    assert [source.read(pool, NOW_S).outcome for pool in pools(8)] == [Outcome.OK] * 8
    prometheus.drip_s = 1.0
    begin_s = time.monotonic()
    readings = [source.read(pool, NOW_S + 15) for pool in pools(8)]
    assert time.monotonic() - begin_s < 2.0
    assert [reading.outcome for reading in readings] == [Outcome.UNREACHABLE] * 8
    assert "pool 'p0' had no answer in this tick (no answer within 0.5 s)" in readings[1].detail
    assert all(reading.demand.tolist() == [60.0] * 60 for reading in readings)
    prometheus.drip_s = 0.0
    back = [source.read(pool, NOW_S + 30).outcome for pool in pools(8)]
    assert back == [Outcome.UNREACHABLE] + [Outcome.OK] * 7
    assert [source.read(pool, NOW_S + 45).outcome for pool in pools(8)] == [Outcome.OK] * 8
    source.close()


def test_a_single_pool_asks_again_in_the_next_tick(free_port: int) -> None:
    source = PrometheusDemand(f"http://127.0.0.1:{free_port}", history_s=3600.0)
    for tick in range(3):
        reading = source.read(POOL, NOW_S + 15 * tick)
        assert reading.outcome is Outcome.UNREACHABLE
        assert "refused" in reading.detail
        assert "not asked" not in reading.detail
    source.close()


def test_pools_whose_answers_are_slow_do_not_keep_others_from_theirs(prometheus: Wire) -> None:
    """The first two of five have a history that takes longer than the deadline, and always will."""
    source = PrometheusDemand(prometheus.url, history_s=3600.0, deadline_s=0.5)
    store(prometheus, lambda _: 60.0)
    quick = prometheus.answers["/api/v1/query_range"]

    def slow(query: str) -> str:
        time.sleep(1.0 if "p0" in query or "p1" in query else 0.0)
        return quick(query)

    prometheus.answers["/api/v1/query_range"] = slow
    outcomes = [[source.read(pool, NOW_S + 15 * tick).outcome for pool in pools(5)] for tick in range(6)]
    source.close()
    good = [[outcome is Outcome.OK for outcome in tick] for tick in outcomes]
    nobody, others = [False] * 5, [False, False, True, True, True]
    assert good == [nobody, nobody, others] * 2


def test_an_http_error_of_one_pool_is_an_answer(prometheus: Wire) -> None:
    source = PrometheusDemand(prometheus.url, history_s=3600.0)
    store(prometheus, lambda _: 60.0)
    prometheus.status = 422
    readings = [source.read(pool, NOW_S) for pool in pools(3)]
    source.close()
    assert [reading.outcome for reading in readings] == [Outcome.UNREACHABLE] * 3
    assert all("422" in reading.detail for reading in readings)
    assert len(prometheus.asked) == 3


def test_nobody_there(free_port: int) -> None:
    source = PrometheusDemand(f"http://127.0.0.1:{free_port}")
    reading = source.read(POOL, NOW_S)
    assert reading.outcome is Outcome.UNREACHABLE
    assert "refused" in reading.detail
    assert "query=" not in reading.detail


def test_within_hands_on_answers_and_errors() -> None:
    assert within(1.0, lambda: 7) == 7
    with pytest.raises(PrometheusError, match="KeyError: 'x'"):
        within(1.0, lambda: {}["x"])


@pytest.mark.prometheus
def test_a_real_prometheus(tmp_path: Path, free_port: int) -> None:
    """A gateway's and two pods' pages, scraped for some bins: arrivals, waits and warm pods' frames come back."""
    local = Path(__file__).resolve().parents[2] / ".tools" / "prometheus" / "prometheus"
    binary = str(local) if os.access(local, os.X_OK) else shutil.which("prometheus")
    if binary is None:
        pytest.skip("no prometheus (scripts/install-prometheus.sh brings it)")
    with serving() as gateway:
        config = tmp_path / "prometheus.yml"
        target = gateway.url.removeprefix("http://")
        config.write_text(
            "global: {scrape_interval: 500ms, scrape_timeout: 500ms}\n"
            f'scrape_configs: [{{job_name: g, static_configs: [{{targets: ["{target}"]}}]}}]\n'
        )
        process = subprocess.Popen(
            [
                binary,
                f"--config.file={config}",
                f"--storage.tsdb.path={tmp_path / 'data'}",
                f"--web.listen-address=127.0.0.1:{free_port}",
                "--log.level=error",
            ],
        )
        try:
            source = PrometheusDemand(f"http://127.0.0.1:{free_port}", bin_s=2.0, history_s=60.0)
            begin_s = time.time()
            reading = None
            while time.time() - begin_s < 40.0 and (reading is None or reading.service is None):
                count = int((time.time() - begin_s) * 20)
                gateway.pages["/metrics"] = (
                    f'splatfleet_gateway_requests_total{{pool="renderer",scene="robot"}} {count}\n'
                    'splatfleet_gateway_pending_requests{pool="renderer"} 3\n'
                    'splatfleet_gateway_pods{pool="renderer",state="ready"} 2\n'
                    + _waits(count)
                    + _pod("warm", 50 + count, 0.1)
                    + (_pod("cold", count, 2.0) if time.time() - begin_s > 8.0 else "")
                )
                time.sleep(0.1)
                if time.time() - begin_s > 14.0:  # the window and the one before it
                    reading = source.read(POOL, time.time())
            source.close()
        finally:
            process.terminate()
            process.wait(timeout=20)
    assert reading is not None
    assert reading.outcome is Outcome.OK, reading
    assert 22 < np.nanmedian(reading.demand) < 52  # 20/s in bins of 2 s; other work may delay a scrape
    assert np.isnan(reading.demand[0])  # before it ran: no data, not zero
    assert reading.scene_demand["robot"] > 20  # type: ignore[index]
    assert (reading.pending, reading.ready) == (3.0, 2)
    assert reading.service is not None
    assert reading.service.mean_s == pytest.approx(0.1, rel=0.05)  # the cold pod's 2 s frames are left out
    assert reading.served is not None
    assert reading.late is not None
    assert reading.late / reading.served == pytest.approx(0.25, abs=0.02)
    assert 0.2 < reading.service.cv < 0.8  # even over 0.05 to 0.2 s: 0.35


def _waits(count: int) -> str:
    """A quarter of the requests waited for 0.5 to 1 s, the others less."""
    edges = {"0.1": 0.5, "0.5": 0.75, "1.0": 1.0, "+Inf": 1.0}
    name = 'splatfleet_gateway_wait_seconds_bucket{pool="renderer",le='
    return "".join(f'{name}"{edge}"}} {share * count:.0f}\n' for edge, share in edges.items())


def _pod(pod: str, frames: int, frame_s: float) -> str:
    labels = f'pod="{pod}",pool="renderer",model="m"'
    edges = {"0.05": 0.0, "0.2": 1.0, "+Inf": 1.0}
    name = f'splatfleet_renderer_render_seconds_bucket{{pool="renderer",pod="{pod}",le='
    return (
        f'splatfleet_triton_requests_total{{{labels},outcome="success"}} {frames}\n'
        f"splatfleet_triton_compute_seconds_total{{{labels}}} {frames * frame_s:.3f}\n"
        + "".join(f'{name}"{edge}"}} {share * frames:.0f}\n' for edge, share in edges.items())
    )
