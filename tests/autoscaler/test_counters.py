"""Counters and bins: resets, new series, gaps."""

from __future__ import annotations

import math

import numpy as np
import pytest

from autoscaler.counters import CounterBook, DemandLog


def test_first_look_compares_with_nothing() -> None:
    assert CounterBook[str]().increments({"a": 100.0}) is None


def test_growth_reset_new_and_vanished_series() -> None:
    book = CounterBook[str]()
    book.increments({"a": 100.0, "b": 5.0})
    assert book.increments({"a": 103.0, "b": 5.0, "c": 2.0}) == {"a": 3.0, "b": 0.0, "c": 2.0}
    assert book.resets == 0
    assert book.increments({"a": 4.0, "c": 2.0}) == {"a": 4.0, "c": 0.0}
    assert book.resets == 1
    assert book.increments({"a": 4.0, "b": 1.0, "c": 2.0}) == {"a": 0.0, "b": 1.0, "c": 0.0}


def test_a_series_that_was_missing_for_a_while_counts_what_it_grew_by() -> None:
    book = CounterBook[str](kept_looks=2)
    book.increments({"a": 100.0, "b": 5.0})
    for _ in range(2):
        assert book.increments({"a": 100.0}) == {"a": 0.0}
    assert book.increments({"a": 100.0, "b": 7.0}) == {"a": 0.0, "b": 2.0}
    assert (book.appeared, book.resets) == (set(), 0)
    book.increments({"a": 100.0})
    assert book.increments({"a": 100.0, "b": 3.0}) == {"a": 0.0, "b": 3.0}
    assert (book.appeared, book.resets) == (set(), 1)
    for _ in range(3):
        book.increments({"a": 100.0})
    assert book.increments({"a": 100.0, "b": 9.0}) == {"a": 0.0, "b": 9.0}
    assert book.appeared == {"b"}


@pytest.mark.parametrize("value", [math.nan, math.inf, -1.0])
def test_what_is_no_count_is_refused(value: float) -> None:
    book = CounterBook[str]()
    with pytest.raises(ValueError, match="expected a finite number"):
        book.increments({"a": value})


def test_arrivals_are_spread_over_the_bins_they_span() -> None:
    log = DemandLog(10.0)
    log.add(100.0, 105.0, 5.0)
    log.add(105.0, 115.0, 20.0)
    log.add(115.0, 121.0, 6.0)
    counts, end_s = log.full_bins()
    assert counts.tolist() == [15.0, 15.0]
    assert end_s == 120.0


def test_a_gap_is_nan_and_a_quiet_bin_is_zero() -> None:
    log = DemandLog(10.0)
    log.add(100.0, 110.0, 7.0)
    log.add(110.0, 160.0, 50.0)  # five bins at once: nobody knows which
    log.add(160.0, 170.0, 0.0)
    counts, end_s = log.full_bins()
    assert np.isnan(counts[1:6]).all()
    assert (counts[0], counts[6], end_s) == (7.0, 0.0, 170.0)


def test_a_half_seen_bin_is_scaled_and_a_hardly_seen_one_is_nan() -> None:
    log = DemandLog(10.0)
    log.add(94.0, 96.0, 3.0)
    log.add(96.0, 99.9, 3.0)
    log.add(107.0, 111.0, 4.0)
    counts, _ = log.full_bins()
    assert counts[0] == pytest.approx(6.0 * 10 / 5.9)
    assert math.isnan(counts[1])


def test_nothing_yet() -> None:
    counts, end_s = DemandLog(10.0).full_bins()
    assert counts.size == 0
    assert math.isnan(end_s)
