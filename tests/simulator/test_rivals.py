"""Rivals against the cases of their own projects' test tables, and against their formulas."""

from __future__ import annotations

import numpy as np
import pytest

from simulator.rivals.aibrix import apa_replicas
from simulator.rivals.dynamo import load_step, sla_step
from simulator.rivals.hpa import HpaBehavior, average_value_replicas, pods_metric_replicas, value_replicas
from simulator.rivals.kpa import Kpa
from simulator.rivals.predictive import dsp_peak
from simulator.rivals.predictors import Arima, Constant, Kalman, Predictor, ProphetLike
from simulator.rivals.ray_serve import RayServe
from simulator.rivals.seasonal import DAY, HoltWinters, PeakForecast
from simulator.rivals.wva import saturation_step


# kubernetes: replica_calculator_test.go, the cases of type Pods (CM), by their names there.
@pytest.mark.parametrize(
    ("name", "values", "target", "replicas", "missing", "pending", "expected"),
    [
        ("ScaleUpCM", (20_000, 10_000, 30_000), 15_000, 3, 0, 0, 4),
        ("ScaleUpCMUnreadyHotCpuNoLessScale", (50_000, 10_000, 30_000), 15_000, 3, 0, 0, 6),
        ("ScaleUpCMUnreadyHotCpuScaleWouldScaleDown", (50_000, 15_000, 30_000), 15_000, 3, 0, 0, 7),
        ("ScaleDownCM", (12_000,) * 5, 20_000, 5, 0, 0, 3),
        ("ToleranceCM", (20_000, 21_000, 21_000), 20_000, 3, 0, 0, 3),
    ],
)
def test_hpa_pods_metric(
    name: str, values: tuple[float, ...], target: float, replicas: int, missing: int, pending: int, expected: int
) -> None:
    assert pods_metric_replicas(values, target, replicas, missing, pending) == expected, name


@pytest.mark.parametrize(
    ("values", "replicas", "missing", "pending", "expected"),
    [
        ((), 3, 3, 0, 3),  # no metric: nothing changes
        ((2.0, 2.0), 4, 2, 0, 4),  # up, the missing count 0: 4/4 is inside the tolerance
        ((4.0, 4.0), 4, 2, 0, 8),  # up all the same
        ((0.5, 0.5), 4, 2, 0, 3),  # down, the missing count as the target: (1 + 2) / 4
        ((0.8, 0.8), 4, 8, 0, 4),  # down, inside the tolerance once the missing are counted
        ((3.0, 3.0), 4, 0, 2, 6),  # up, those Pending count 0: 6 / 4
        ((1.2, 1.2), 3, 0, 1, 3),  # up turns into down when those Pending count: nothing changes
        ((0.5, 0.5), 2, 0, 2, 1),  # Pending pods do not hold a step down back
    ],
)
def test_hpa_missing_and_pending_pods(
    values: tuple[float, ...], replicas: int, missing: int, pending: int, expected: int
) -> None:
    assert pods_metric_replicas(values, 1.0, replicas, missing, pending) == expected


def test_hpa_external_metric() -> None:
    # ScaleUpCMExternal, …IgnoresUnreadyPods, ScaleDownCMExternal, ScaleDownPerPodCMExternal
    assert value_replicas(8600, 4400, replicas=1, ready=1) == 2
    assert value_replicas(8600, 4400, replicas=3, ready=1) == 2
    assert value_replicas(8600, 14334, replicas=5, ready=5) == 3
    assert average_value_replicas(8600, 2867, replicas=5) == 3
    assert average_value_replicas(8600, 2150, replicas=3) == 4
    assert average_value_replicas(10.9, 1.0, replicas=10) == 10  # the deadband
    assert average_value_replicas(11.1, 1.0, replicas=10) == 12
    assert average_value_replicas(77.0, 10.0, replicas=7) == 7  # 1.1 exactly, as the real controller takes it


def test_hpa_behavior() -> None:
    behavior = HpaBehavior()
    assert behavior.limit(0.0, 1, 50, (1, 100)) == 5  # 1 + 4 pods, more than double
    assert behavior.limit(1.0, 5, 50, (1, 100)) == 5  # the period's budget is spent
    assert behavior.limit(15.0, 5, 50, (1, 100)) == 10  # doubled
    assert behavior.limit(30.0, 10, 3, (1, 100)) == 10  # the window's highest is 50
    assert behavior.limit(314.0, 10, 3, (1, 100)) == 10
    assert behavior.limit(331.0, 10, 3, (1, 100)) == 3
    assert behavior.limit(700.0, 3, 0, (1, 100)) == 1


def test_hpa_holds_what_it_finds_for_the_window() -> None:
    behavior = HpaBehavior()
    assert behavior.limit(0.0, 5, 2, (1, 100)) == 5
    assert behavior.limit(285.0, 5, 2, (1, 100)) == 5
    assert behavior.limit(300.0, 5, 2, (1, 100)) == 2


# knative: autoscaler_test.go
def test_kpa_tables() -> None:
    kpa = Kpa(10.0, max_down_rate=10.0)
    assert kpa.decide(0.0, 50.0, 10.0, 1) == 5  # StableModeIncrease
    assert kpa.decide(2.0, 100.0, 10.0, 1) == 10
    kpa = Kpa(10.0)
    assert kpa.decide(0.0, 100.0, 100.0, 8) == 10  # StableModeDecrease
    assert kpa.decide(2.0, 50.0, 50.0, 8) == 5


def test_kpa_panic() -> None:
    kpa = Kpa(1.0)  # UnpanicAfterSlowIncrease
    assert kpa.decide(0.0, 11.0, 25.0, 10) == 25
    assert kpa.decide(30.0, 30.0, 41.0, 40) == 41
    assert kpa.decide(62.0, 50.0, 56.0, 55) == 50
    kpa = Kpa(1.0)  # ExtendPanicWindow
    assert kpa.decide(0.0, 11.0, 25.0, 10) == 25
    assert kpa.decide(30.0, 30.0, 80.0, 40) == 80
    assert kpa.decide(62.0, 10.0, 10.0, 80) == 80  # still in panic, never down
    assert kpa.decide(91.0, 10.0, 10.0, 80) == 40  # out of it, at most to half


# AIBrix: apa_test.go
@pytest.mark.parametrize(
    ("pods", "use", "up", "down", "expected"),
    [
        (2, 45.0, 2.0, 2.0, 3),
        (2, 35.0, 2.0, 2.0, 3),
        (2, 90.0, 2.0, 2.0, 4),
        (2, 90.0, 2.5, 2.0, 5),
        (6, 20.0, 2.0, 2.0, 4),
        (6, 18.0, 2.0, 2.0, 4),
        (6, 10.0, 2.0, 2.0, 3),
        (6, 5.0, 2.0, 2.5, 2),
        (2, 33.0, 2.0, 2.0, 2),
        (2, 27.0, 2.0, 2.0, 2),
    ],
)
def test_aibrix_table(pods: int, use: float, up: float, down: float, expected: int) -> None:
    assert apa_replicas(pods, use, 30.0, up, down) == expected


def test_ray_serve_waits_for_a_row_of_verdicts() -> None:
    ray = RayServe(0.5)
    assert [ray.decide(10.0, 5) for _ in range(7)] == [5] * 6 + [20]
    ray = RayServe(0.5)
    for _ in range(5):
        ray.decide(10.0, 5)
    ray.decide(1.0, 5)  # one other verdict begins anew
    assert [ray.decide(10.0, 5) for _ in range(7)] == [5] * 6 + [20]
    assert RayServe(0.5).decide(1.0, 0) == 2  # from zero at once
    down = RayServe(0.5)
    assert [down.decide(1.0, 5) for _ in range(121)] == [5] * 120 + [2]


def test_dynamo_steps() -> None:
    assert [load_step(queue, 1.0, 0.1) for queue in (1.0, 0.5, 0.1, 0.05)] == [1, 0, 0, -1]
    assert sla_step(4.0, 3, 0.25, 0.5) == 1  # 3 wait a pod: 0.75 s
    assert sla_step(1.5, 3, 0.25, 0.5) == -1  # 2.25 a pod with one fewer: 0.31 s, under 0.4
    assert sla_step(2.0, 3, 0.25, 0.5) == 0  # 3 a pod with one fewer: 0.5 s
    assert sla_step(0.1, 1, 0.25, 0.5) == 0


def test_wva_steps() -> None:
    assert saturation_step(2.5, 3) == 1
    assert saturation_step(1.5, 3) == 0  # 2.25 a pod with one fewer
    assert saturation_step(1.0, 3) == -1
    assert saturation_step(0.0, 1) == 0


@pytest.mark.parametrize("make", [Constant, Kalman, Arima, ProphetLike])
def test_predictors_follow_a_level(make: type[Predictor]) -> None:
    predictor = make()
    assert predictor.next() == 0.0
    for _ in range(60):
        predictor.add(40.0)
    assert predictor.next() == pytest.approx(40.0, rel=1e-3)


@pytest.mark.parametrize("make", [Kalman, Arima, ProphetLike])
def test_predictors_follow_a_trend(make: type[Predictor]) -> None:
    predictor = make()
    for step in range(60):
        predictor.add(10.0 + 2.0 * step)
    assert predictor.next() == pytest.approx(130.0, rel=0.02)


def test_arima_finds_an_oscillation() -> None:
    predictor = Arima()
    for step in range(200):
        predictor.add(10.0 + 5.0 * (-1) ** step)
    assert predictor.next() == pytest.approx(15.0, rel=0.02)


def days(count: int) -> list[float]:
    return [10.0 + 8.0 * float(np.sin(2 * np.pi * step / DAY)) for step in range(count * DAY)]


def test_holt_winters_sees_the_day() -> None:
    model = HoltWinters(days(4))
    assert model.peak(DAY // 4 + 1) == pytest.approx(18.0, rel=0.02)
    assert model.peak(1) == pytest.approx(10.0, rel=0.05)


def test_the_forecast_quantile_covers() -> None:
    random = np.random.default_rng(0)
    noisy = [value + float(random.normal()) for value in days(8)]
    forecast = PeakForecast(noisy[: 6 * DAY], 2)
    met = []
    for index in range(6 * DAY, 8 * DAY - 2):
        met.append(max(noisy[index : index + 2]) <= forecast.quantile(0.9))
        forecast.update(noisy[index])
    assert 0.84 < np.mean(met) < 0.96


def test_dsp_needs_a_period() -> None:
    assert dsp_peak(days(3), DAY // 4 + 1) == pytest.approx(18.0, rel=0.01)
    assert dsp_peak([5.0] * 3 * DAY, 12) == 0.0
    assert dsp_peak(np.random.default_rng(0).normal(10, 1, 3 * DAY).tolist(), 12) == 0.0
