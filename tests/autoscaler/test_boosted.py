"""The boosted expert: trees as arrays answer as scikit-learn does, and what they learn helps."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest
from sklearn.ensemble import HistGradientBoostingRegressor

from autoscaler import boosting
from autoscaler.boosting import Refitter, fit
from autoscaler.forecast import Forecaster, shape_for
from autoscaler.loop import Memory
from autoscaler.memory import PoolMemory
from autoscaler.trees import FitTask, Trees


def made_task(rows: int = 600) -> FitTask:
    random = np.random.default_rng(3)
    features = random.normal(size=(rows, 5))
    features[random.uniform(size=features.shape) < 0.1] = np.nan
    features[:, 3] = np.round(features[:, 3])  # few values
    features[:, 4] = np.where(features[:, 4] > 0.5, 1.5, features[:, 4])  # many, and many alike
    targets = np.nan_to_num(features[:, 0]) ** 2 + random.normal(size=rows) * 0.1
    return FitTask(features, targets, random.uniform(0.5, 2.0, rows), 0.9)


def test_trees_answer_as_scikit_learn_does_from_the_same_values() -> None:
    """Bins and values of leaves are found here, as scikit-learn's own way of finding them is slow."""
    task = made_task()
    theirs = HistGradientBoostingRegressor(
        loss="quantile",
        quantile=task.quantile,
        max_iter=boosting.ROUNDS,
        learning_rate=boosting.LEARNING_RATE,
        max_leaf_nodes=boosting.LEAVES,
        max_depth=boosting.DEPTH,
        min_samples_leaf=20,
        l2_regularization=1.0,
        max_bins=64,
        max_features=boosting.FEATURES,
        early_stopping=False,
        random_state=0,
    )
    theirs.fit(task.features, task.targets, sample_weight=task.weights)
    trees = fit(task)
    ours = [trees.predict(row) for row in task.features]
    assert ours == pytest.approx(theirs.predict(task.features), abs=1e-9)
    assert np.std(ours) > 0.1


def _same(one: Trees, two: Trees) -> bool:
    arrays = ("roots", "feature", "threshold", "left", "right", "missing_left", "value")
    return one.base == two.base and all(np.array_equal(getattr(one, name), getattr(two, name)) for name in arrays)


def test_a_fit_is_a_function_of_its_values() -> None:
    assert _same(fit(made_task()), fit(made_task()))


def stepping(days: int, day: int = 96) -> np.ndarray:
    """Steps at fixed hours whose height depends on the step before: past days do not know it."""
    random = np.random.default_rng(5)
    rates = []
    for _ in range(days):
        high = random.uniform() < 0.5
        shape = np.full(day, 10.0)
        shape[28:36] = 30.0 if high else 15.0
        shape[40:60] = 60.0 if high else 20.0
        rates.append(random.poisson(shape * 60) / 60)
    return np.concatenate(rates)


def loss_of(rates: np.ndarray, refit: bool) -> float:
    forecaster = Forecaster(shape_for(600.0, 60.0, 240.0, (96 * 60.0,), 0.9, None))
    lead, losses, issued = forecaster.shape.lead_bins, [], []
    for index, rate in enumerate(rates.tolist()):
        forecaster.update(rate)
        if refit and index > len(rates) // 3 and forecaster.refit_due:
            forecaster.adopt(fit(forecaster.refit_task()))
        quantiles = forecaster.quantiles()
        assert quantiles is not None
        issued.append(float(quantiles[1]))
        if index - lead > len(rates) // 2:
            error = rates[index - lead + 1 : index + 1].max() - issued[index - lead]
            losses.append(max(0.9 * error, -0.1 * error))
    return float(np.mean(losses))


def test_it_learns_what_the_other_experts_cannot() -> None:
    rates = stepping(16)
    assert loss_of(rates, refit=True) < 0.9 * loss_of(rates, refit=False)


def test_a_refit_never_holds_a_tick_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """While a fit is stuck, exchange returns at once and the forecast goes on without it; then it is adopted."""
    gate = threading.Event()

    def stuck(task: FitTask) -> object:
        gate.wait(20)
        return fit(task)

    monkeypatch.setattr(boosting, "fit", stuck)
    memory = Memory()
    shape = shape_for(600.0, 60.0, 240.0, (96 * 60.0,), 0.9, None)
    forecaster, alone = Forecaster(shape), Forecaster(shape)
    memory.pools["p"] = PoolMemory(forecaster=forecaster)
    rates = stepping(8)
    for rate in rates.tolist():
        forecaster.update(rate)
        alone.update(rate)
    refitter = Refitter()
    try:
        begin = time.monotonic()
        refitter.exchange(memory)
        for rate in rates[:5].tolist():
            forecaster.update(rate)
            alone.update(rate)
            refitter.exchange(memory)
        assert time.monotonic() - begin < 5
        assert forecaster.view() == alone.view()
        gate.set()
        refitter.settle(memory)
        for rate in rates[5:60].tolist():
            forecaster.update(rate)
            alone.update(rate)
        assert forecaster.view() != alone.view()
        assert refitter.failures == 0
    finally:
        gate.set()
        refitter.close()
