"""The decisions as metrics, read as Prometheus does: what is not known, and pools that are gone, have no series."""

from __future__ import annotations

import socket
import struct
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace

import pytest

from autoscaler.decision import Decision, ForecastView, PlaceAsk, Reason, WarmAsk
from autoscaler.exposition import DecisionMetrics, StatusServer
from fleet.scene import SceneId

VIEW = ForecastView({0.5: 10.0, 0.9: 12.0}, 0.9, {"recent": 0.25, "season": 0.75}, coverage=0.9, skill=0.8)
KNOWN = Decision(
    "web",
    3,
    Reason.FORECAST,
    "",
    current=2,
    demand_per_s=9.0,
    forecast=VIEW,
    warm=(WarmAsk(SceneId("ball"), "disk", 0.0),),
    places=PlaceAsk(2, 0.0, 60.0),
)

Scrape = Callable[[], dict[str, float]]


@pytest.fixture
def told() -> DecisionMetrics:
    return DecisionMetrics()


@pytest.fixture
def scrape(told: DecisionMetrics) -> Iterator[Scrape]:
    """The page of /metrics: values by series."""
    with closing(StatusServer(("127.0.0.1", 0), told.registry, lambda: True, lambda: True)) as server:

        def read() -> dict[str, float]:
            with urllib.request.urlopen(f"http://127.0.0.1:{server.port}/metrics", timeout=10) as reply:
                lines = reply.read().decode().splitlines()
            pairs = [line.rpartition(" ") for line in lines if not line.startswith("#")]
            return {series: float(value) for series, _, value in pairs}

        yield read


def test_a_client_that_hangs_up_leaves_no_traceback(told: DecisionMetrics, capfd: pytest.CaptureFixture[str]) -> None:
    with closing(StatusServer(("127.0.0.1", 0), told.registry, lambda: True, lambda: True)) as server:
        for _ in range(5):
            with socket.create_connection(("127.0.0.1", server.port)) as client:
                client.sendall(b"GET /met")
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # a reset, no end
        with urllib.request.urlopen(f"http://127.0.0.1:{server.port}/-/healthy", timeout=10) as reply:
            assert reply.read() == b"ok\n"
        time.sleep(0.2)
    assert "Traceback" not in capfd.readouterr().err


def test_a_pool_that_is_gone_has_no_series_and_the_others_count_on(told: DecisionMetrics, scrape: Scrape) -> None:
    told.record([KNOWN, replace(KNOWN, pool="preview")], 0.1)
    both = scrape()
    assert sum('pool="preview"' in series for series in both) == sum('pool="web"' in series for series in both) > 20
    told.record([KNOWN], 0.1)
    page = scrape()
    assert not [series for series in page if "preview" in series]
    assert page['splatfleet_autoscaler_decisions_total{pool="web",reason="forecast"}'] == 2
    assert page['splatfleet_autoscaler_warm_asks_total{pool="web",stage="disk"}'] == 2
    told.record([KNOWN, replace(KNOWN, pool="preview")], 0.1)
    page = scrape()
    assert page['splatfleet_autoscaler_decisions_total{pool="preview",reason="forecast"}'] == 1
    assert page['splatfleet_autoscaler_warm_asks_total{pool="preview",stage="node"}'] == 2
    assert page['splatfleet_autoscaler_warm_asks_total{pool="web",stage="node"}'] == 2


def test_a_forecast_that_is_no_more_has_no_series(told: DecisionMetrics, scrape: Scrape) -> None:
    told.record([KNOWN, replace(KNOWN, pool="batch")], 0.1)
    assert scrape()['splatfleet_autoscaler_expert_weight_ratio{expert="season",pool="web"}'] == 0.75
    blind = replace(KNOWN, reason=Reason.NO_DATA, forecast=None, demand_per_s=None)
    fewer = replace(
        KNOWN, pool="batch", forecast=replace(VIEW, quantiles={0.5: 7.0}, weights={"recent": 1.0}, skill=None)
    )
    told.record([blind, fewer], 0.1)
    page = scrape()
    web = {series.partition("{")[0] for series in page if 'pool="web"' in series}
    assert web == {
        f"splatfleet_autoscaler_{name}"
        for name in (
            "current_replicas",
            "decisions_total",
            "desired_replicas",
            "lead_seconds",
            "reactive_floor_replicas",
            "warm_asks_total",
        )
    }
    assert page['splatfleet_autoscaler_forecast_requests_per_second{level="0.5",pool="batch"}'] == 7.0
    assert 'splatfleet_autoscaler_forecast_requests_per_second{level="0.9",pool="batch"}' not in page
    assert 'splatfleet_autoscaler_expert_weight_ratio{expert="season",pool="batch"}' not in page
    assert 'splatfleet_autoscaler_forecast_skill_ratio{pool="batch"}' not in page
