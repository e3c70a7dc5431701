"""Histogram buckets against the values that were put into them."""

from __future__ import annotations

import math

import numpy as np
import pytest

from autoscaler.buckets import over, variation

EDGES = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


def buckets(values: np.ndarray) -> dict[float, float]:
    return {edge: float((values <= edge).sum()) for edge in (*EDGES, math.inf)}


def test_those_over_an_edge_are_exact_and_inside_a_bucket_by_the_straight_line() -> None:
    waits = np.random.default_rng(1).uniform(0.0, 2.0, 10_000)
    assert over(buckets(waits), 0.5) == (10_000, float((waits > 0.5).sum()))
    total_and_late = over(buckets(waits), 0.75)
    assert total_and_late is not None
    assert total_and_late[1] == pytest.approx(float((waits > 0.75).sum()), rel=0.03)
    assert over(buckets(np.array([50.0, 0.1])), 100.0) == (2, 1)  # beyond the last edge nothing is known: it is late


def test_no_histogram_is_no_data() -> None:
    assert over({}, 0.5) is None
    assert over({0.5: 3.0}, 0.5) is None
    assert variation({}) is None
    assert variation(buckets(np.full(19, 0.2))) is None  # too few
    assert variation(buckets(np.full(100, 60.0))) is None  # beyond the last edge


@pytest.mark.parametrize("cv", [0.6, 1.0, 1.5])
def test_a_variation_comes_back(cv: float) -> None:
    variance = math.log1p(cv**2)
    frames = np.random.default_rng(2).lognormal(math.log(0.25) - variance / 2, math.sqrt(variance), 20_000)
    assert variation(buckets(frames)) == pytest.approx(cv, rel=0.25)
