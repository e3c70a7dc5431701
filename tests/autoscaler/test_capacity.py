"""Erlang C by hand, and what the pods for a demand must satisfy."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoscaler.capacity import (
    CORRECTION_BOUNDS,
    corrected,
    erlang_c,
    expected_queue_to_compute,
    replicas_for,
    wait_tail,
)
from autoscaler.observation import ServiceTime
from autoscaler.pool import Objective

FRAME = ServiceTime(0.15, 1.0)


@pytest.mark.parametrize(
    ("servers", "load", "expected"),
    [
        (1, 0.5, 0.5),  # M/M/1: C = rho
        (2, 1.0, 1 / 3),  # B1 = 1/2, B2 = 1/5, C = 2 (1/5) / (2 - 4/5)
        (3, 2.0, 4 / 9),  # B3 = 4/19, C = 3 (4/19) / (3 - 2 (15/19))
        (4, 4.0, 1.0),  # unstable
        (5, 0.0, 0.0),
    ],
)
def test_erlang_c_by_hand(servers: int, load: float, expected: float) -> None:
    assert erlang_c(servers, load) == pytest.approx(expected, rel=1e-12)


def test_wait_tail_by_hand() -> None:
    """Two pods, one Erlang, exponential service: 1/3 exp(-(2 - 1) / 0.15 x 0.5)."""
    assert wait_tail(0.5, 2, 1 / 0.15, FRAME) == pytest.approx(math.exp(-0.5 / 0.15) / 3, rel=1e-9)


def test_steadier_frames_wait_less() -> None:
    """Allen-Cunneen: with cv 0.2 the tail decays 2 / 1.04 times as fast."""
    steady = wait_tail(0.5, 2, 1 / 0.15, ServiceTime(0.15, 0.2))
    assert steady == pytest.approx(math.exp(-0.5 / 0.15 / 0.52) / 3, rel=1e-9)


def test_expected_ratio_by_hand() -> None:
    """M/M/1 at 50 %: the mean wait is one mean service."""
    assert expected_queue_to_compute(1, 0.5 / 0.15, FRAME) == pytest.approx(1.0)
    assert expected_queue_to_compute(1, 2 / 0.15, FRAME) is None


@given(st.floats(0.01, 400), st.floats(0.02, 2.0), st.floats(0.0, 3.0), st.floats(0.001, 0.3))
def test_the_fewest_pods_that_meet_the_objective(rate: float, mean_s: float, cv: float, ratio: float) -> None:
    service = ServiceTime(mean_s, cv)
    pods = replicas_for(rate, service, Objective(0.5, ratio))
    assert wait_tail(0.5, pods, rate, service) <= ratio
    assert pods == 1 or wait_tail(0.5, pods - 1, rate, service) > ratio


def test_limits() -> None:
    assert replicas_for(0.0, FRAME, Objective()) == 0
    assert replicas_for(1e6, FRAME, Objective(), limit=12) == 12


def test_correction_is_slow_and_bounded_both_ways() -> None:
    def move(value: float, observed: float | None, foreseen: float) -> float:
        return corrected(value, observed, foreseen, tolerated=0.1, share=0.2)

    value = move(1.0, 3.0, 0.2)
    assert 1.0 < value <= 1.02
    for _ in range(500):
        value = move(value, 3.0, 0.2)
    assert value == CORRECTION_BOUNDS[1]
    for _ in range(500):
        value = move(value, 0.0, 0.5)
    assert value == CORRECTION_BOUNDS[0]
    for _ in range(500):
        value = move(value, 0.2, 0.2)
    assert value == pytest.approx(1.0)
    assert move(1.3, None, 0.2) == 1.3


def test_ample_pods_say_nothing_of_the_service_time() -> None:
    value = 1.0
    for _ in range(500):
        value = corrected(value, observed=0.0, foreseen=0.01, tolerated=0.3, share=0.2)
    assert value == 1.0
