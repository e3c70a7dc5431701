"""A flood of refusals has a few lines a second, and the next line says how many had none."""

from __future__ import annotations

from fleet.audit import LineBudget


def test_a_burst_is_cut_and_counted() -> None:
    budget = LineBudget(per_s=2.0)
    assert [budget.take(100.0) for _ in range(5)] == [0, 0, None, None, None]
    assert budget.take(100.4) is None
    assert budget.take(100.6) == 4
    assert [budget.take(200.0) for _ in range(3)] == [0, 0, None], "no more than a second's worth is saved up"
