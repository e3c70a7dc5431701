"""Demand by direct scrape over real HTTP: rates, resets, a dead gateway, a dead exporter, nonsense."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from autoscaler.demand import Outcome
from autoscaler.loop import Memory, Pool, Reason, tick
from autoscaler.scrape import DirectScrape
from autoscaler.shadow import ShadowCluster
from tests.autoscaler.wire import Wire, serving

POOL = Pool("renderer", tick_s=1.0, startup_s=5.0)


@pytest.fixture
def gateway() -> Iterator[Wire]:
    with serving() as wire:
        yield wire


@pytest.fixture
def exporter() -> Iterator[Wire]:
    with serving() as wire:
        yield wire


def gateway_page(wire: Wire, robot: float, tree: float, pending: float = 0.0) -> None:
    wire.pages["/metrics"] = (
        f'splatfleet_gateway_requests_total{{pool="renderer",scene="robot"}} {robot}\n'
        f'splatfleet_gateway_requests_total{{pool="renderer",scene="tree"}} {tree}\n'
        'splatfleet_gateway_requests_total{pool="other",scene="robot"} 1e6\n'
        f'splatfleet_gateway_pending_requests{{pool="renderer"}} {pending}\n'
        'splatfleet_gateway_pods{pool="renderer",state="ready"} 3\n'
        'splatfleet_gateway_pods{pool="renderer",state="unready"} 2\n'
    )


def exporter_page(wire: Wire, queue_s: float, compute_s: float, done: float, pod: str = "p1") -> None:
    labels = f'pod="{pod}",pool="renderer",model="gaussian_renderer"'
    wire.pages["/metrics"] = (
        f"splatfleet_triton_queue_seconds_total{{{labels}}} {queue_s}\n"
        f"splatfleet_triton_compute_seconds_total{{{labels}}} {compute_s}\n"
        f'splatfleet_triton_requests_total{{{labels},outcome="success"}} {done}\n'
        f'splatfleet_triton_requests_total{{{labels},outcome="rejected"}} 7\n'
        f"splatfleet_triton_pending_requests{{{labels}}} 4\n"
    )


def test_rates_scenes_waiting_and_service_time(gateway: Wire, exporter: Wire) -> None:
    source = DirectScrape(gateway.url, [exporter.url], bin_s=1.0)
    for second in range(6):
        gateway_page(gateway, 100 + 20 * second, 10 * second, pending=2)
        exporter_page(exporter, 5 + 1.5 * second, 50 + 3 * second, 1000 + 20 * second)
        reading = source.read(POOL, 1000.0 + second)
    source.close()
    assert reading.outcome is Outcome.OK
    assert reading.demand.tolist() == [30.0] * 5
    assert reading.end_s == 1005.0
    assert reading.scene_demand == {"robot": 100.0, "tree": 50.0}
    assert reading.pending == 6.0
    assert reading.ready == 3
    assert reading.queue_to_compute == pytest.approx(0.5)
    assert reading.service is not None
    assert (reading.service.mean_s, reading.service.samples) == (pytest.approx(0.15), 100)


def test_the_first_frames_of_a_pod_are_no_service_time(gateway: Wire, exporter: Wire) -> None:
    """Five slow frames after the start count for the ratio of the queue, not for what a frame takes."""
    source = DirectScrape(gateway.url, [exporter.url], bin_s=1.0)
    gateway_page(gateway, 0, 0)
    exporter_page(exporter, 0.0, 0.0, 0)
    source.read(POOL, 1000.0)
    exporter_page(exporter, 2.0, 10.0, 12)
    young = source.read(POOL, 1001.0)
    exporter_page(exporter, 2.0, 11.0, 22)
    warm = source.read(POOL, 1002.0)
    source.close()
    assert young.service is None
    assert young.queue_to_compute == pytest.approx(0.2)
    assert warm.service is not None
    assert (warm.service.mean_s, warm.service.samples) == (pytest.approx(0.1), 10)


def test_a_restarted_gateway_is_a_reset_and_no_negative_demand(gateway: Wire) -> None:
    source = DirectScrape(gateway.url, [], bin_s=1.0)
    for second, robot in enumerate((100.0, 110.0, 4.0)):
        gateway_page(gateway, robot, 0)
        reading = source.read(POOL, 1000.0 + second)
    source.close()
    assert reading.outcome is Outcome.RESET
    assert reading.demand.tolist() == [10.0, 4.0]


def test_a_gateway_that_knows_nothing_of_the_pool_is_no_data(gateway: Wire) -> None:
    gateway.pages["/metrics"] = "# nothing\n"
    source = DirectScrape(gateway.url, [], bin_s=1.0)
    reading = source.read(POOL, 1000.0)
    source.close()
    assert reading.outcome is Outcome.NO_DATA
    assert reading.pending is None


def test_a_pool_that_the_gateway_does_not_serve_never_becomes_zero_demand(gateway: Wire) -> None:
    gateway_page(gateway, 100, 0)
    source = DirectScrape(gateway.url, [], bin_s=1.0)
    mistyped = replace(POOL, name="rendrer")
    for second in range(4):
        reading = source.read(mistyped, 1000.0 + second)
    source.close()
    assert reading.outcome is Outcome.NO_DATA
    assert reading.demand.size == 0
    assert "'rendrer', only other, renderer" in reading.detail


def test_a_quiet_pool_is_zero_and_not_no_data(gateway: Wire) -> None:
    gateway_page(gateway, 100, 0)
    source = DirectScrape(gateway.url, [], bin_s=1.0)
    for second in range(3):
        reading = source.read(POOL, 1000.0 + second)
    source.close()
    assert reading.outcome is Outcome.OK
    assert reading.demand.tolist() == [0.0, 0.0]


@pytest.mark.parametrize(
    ("page", "status", "outcome", "words"),
    [
        ("", 503, Outcome.UNREACHABLE, "503"),
        ("<html>hello", 200, Outcome.UNREACHABLE, "not the text"),
        ('splatfleet_gateway_requests_total{pool="renderer",scene="a"} -4\n', 200, Outcome.BAD_VALUE, "-4"),
        ('splatfleet_gateway_requests_total{pool="renderer",scene="a"} NaN\n', 200, Outcome.BAD_VALUE, "nan"),
    ],
)
def test_faults_are_outcomes_that_keep_the_history(
    gateway: Wire, page: str, status: int, outcome: Outcome, words: str
) -> None:
    source = DirectScrape(gateway.url, [], bin_s=1.0)
    for second in range(4):
        gateway_page(gateway, 10 * second, 0)
        source.read(POOL, 1000.0 + second)
    gateway.pages["/metrics"], gateway.status = page, status
    reading = source.read(POOL, 1004.0)
    source.close()
    assert reading.outcome is outcome
    assert words in reading.detail
    assert reading.demand.tolist() == [10.0, 10.0, 10.0]


def test_a_gateway_that_dies_holds_the_count_and_says_so(gateway: Wire) -> None:
    source = DirectScrape(gateway.url, [], bin_s=1.0, deadline_s=0.5)
    cluster, memory = ShadowCluster([POOL], source), Memory()
    for second in range(8):
        gateway_page(gateway, 20 * second, 0)
        (before,) = tick(cluster, memory, 1000.0 + second)
    assert before.replicas > 3
    gateway.status = 500
    for second in range(8, 12):
        (decision,) = tick(cluster, memory, 1000.0 + second)
        assert decision.reason is Reason.STALE
        assert decision.replicas >= before.replicas
        assert "500" in decision.explanation
    source.close()


def test_scenes_of_before_the_window_are_not_wanted_now_though_the_gateway_fails(gateway: Wire) -> None:
    source = DirectScrape(gateway.url, [], bin_s=1.0)
    for second in range(4):
        gateway_page(gateway, 20 * second, 10 * second)
        assert source.read(POOL, 1000.0 + second).outcome is (Outcome.OK if second else Outcome.NO_DATA)
    gateway.status = 500
    assert source.read(POOL, 1004.0).scene_demand == {"robot": 60.0, "tree": 30.0}
    assert source.read(POOL, 1012.0).scene_demand == {"robot": 40.0, "tree": 20.0}
    assert source.read(POOL, 1014.0).scene_demand == {}
    source.close()


def test_what_is_known_of_a_pool_long_gone_goes_with_a_new_one(gateway: Wire) -> None:
    source = DirectScrape(gateway.url, [], bin_s=1.0)
    for second in range(3):
        gateway_page(gateway, 20 * second, 0)
        source.read(POOL, 1000.0 + second)
        source.read(replace(POOL, name="other"), 1000.0 + second)
    assert set(source._pools) == {"renderer", "other"}
    source.read(POOL, 4000.0)
    source.read(replace(POOL, name="new"), 5000.0)
    assert set(source._pools) == {"renderer", "new"}
    source.close()


def test_a_dead_exporter_is_named_and_demand_goes_on(gateway: Wire, free_port: int) -> None:
    source = DirectScrape(gateway.url, [f"http://127.0.0.1:{free_port}"], bin_s=1.0)
    for second in range(3):
        gateway_page(gateway, 10 * second, 0)
        reading = source.read(POOL, 1000.0 + second)
    source.close()
    assert reading.outcome is Outcome.OK
    assert f"{free_port}" in reading.detail
    assert (reading.queue_to_compute, reading.service) == (None, None)


def test_the_ratio_is_unknown_once_the_exporters_failed_for_longer_than_its_window(
    gateway: Wire, exporter: Wire
) -> None:
    source = DirectScrape(gateway.url, [exporter.url], bin_s=1.0)
    ratios = []
    for second in range(34):
        gateway_page(gateway, 20 * second, 0)
        exporter_page(exporter, 5.0 * min(second, 29), 1.0 * second, 1000 + 20 * second)
        exporter.status = 500 if 5 <= second < 30 else 200
        reading = source.read(POOL, 1000.0 + second)
        assert reading.outcome is (Outcome.OK if second else Outcome.NO_DATA)
        ratios.append(reading.queue_to_compute)
    source.close()
    assert ratios[1:15] == pytest.approx([5.0] * 14)
    assert ratios[15:31] == [None] * 16, "the seconds of an outage are not those of the look that ends it"
    assert ratios[31:] == [0.0] * 3


def test_looks_that_are_further_apart_than_the_window_have_a_ratio(gateway: Wire, exporter: Wire) -> None:
    source = DirectScrape(gateway.url, [exporter.url], bin_s=1.0)
    for look in range(3):
        gateway_page(gateway, 20 * look, 0)
        exporter_page(exporter, 5.0 * look, 1.0 * look, 1000 + 20 * look)
        reading = source.read(POOL, 1000.0 + 15 * look)
    source.close()
    assert reading.queue_to_compute == pytest.approx(5.0)


@pytest.mark.parametrize("missing_looks", [1, 5, 14])
def test_a_pod_whose_exporter_was_missing_comes_back_without_its_whole_life(
    gateway: Wire, exporter: Wire, missing_looks: int
) -> None:
    with serving() as old:
        urls = [exporter.url, old.url]
        source = DirectScrape(gateway.url, lambda: urls, bin_s=1.0)
        ratios, services = [], []
        for second in range(24):
            gateway_page(gateway, 20 * second, 0)
            exporter_page(exporter, 0.1 * second, 2.0 * second, 1000 + 20 * second)
            exporter_page(old, 36_000 + 0.1 * second, 7200 + 2.0 * second, 30_000 + 20 * second, pod="p2")
            urls = [exporter.url] if 3 <= second < 3 + missing_looks else [exporter.url, old.url]
            reading = source.read(POOL, 1000.0 + second)
            ratios.append(reading.queue_to_compute)
            services.append(reading.service.mean_s if reading.service else None)
        source.close()
    assert ratios[1:] == pytest.approx([0.05] * 23)
    assert services[1:] == pytest.approx([0.1] * 23)


def test_a_renderer_that_was_restarted_counts_from_zero(gateway: Wire, exporter: Wire) -> None:
    source = DirectScrape(gateway.url, [exporter.url], bin_s=1.0)
    for second, (queue_s, compute_s) in enumerate([(900.0, 100.0), (900.0, 100.0), (3.0, 2.0)]):
        gateway_page(gateway, 20 * second, 0)
        exporter_page(exporter, queue_s, compute_s, 1000 if second < 2 else 5)
        reading = source.read(POOL, 1000.0 + second)
    source.close()
    assert reading.queue_to_compute == pytest.approx(1.5)
    assert reading.service is None
