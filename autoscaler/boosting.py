"""Edge: quantile gradient boosting by scikit-learn, with one thread, in a worker that no tick waits for."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np

from autoscaler.bins import MOST_BINS, Bins, weighted_quantile
from autoscaler.forecast import Foresight
from autoscaler.loop import Memory
from autoscaler.observation import Floats
from autoscaler.trees import FitTask, Trees

ROUNDS = 80
LEARNING_RATE = 0.07
LEAVES = 12
DEPTH = 5
FEATURES = 0.5  # share of the features that a split chooses among


def fit(task: FitTask) -> Trees:
    """Trees for the task's quantile. A function of its argument: a seed that is fixed, one thread."""
    from sklearn.ensemble import HistGradientBoostingRegressor
    from threadpoolctl import threadpool_limits

    model = HistGradientBoostingRegressor(
        loss=_pinball_loss(task),
        max_iter=ROUNDS,
        learning_rate=LEARNING_RATE,
        max_leaf_nodes=LEAVES,
        max_depth=DEPTH,
        min_samples_leaf=max(20, len(task.targets) // 60),
        l2_regularization=1.0,
        max_bins=MOST_BINS,
        max_features=FEATURES,
        early_stopping=False,
        random_state=0,
    )
    # A feature that was never known cannot be binned; as a constant it is never split by.
    known = np.isfinite(task.features).any(axis=0)
    features = np.where(known, task.features, 0.0)
    bins = Bins.of(features, task.weights)
    # Beside other work the barriers of several threads cost far more than the fit itself.
    with threadpool_limits(1):
        model.fit(bins.numbers(features), task.targets, sample_weight=task.weights)
    return _as_trees(model, bins)


def _pinball_loss(task: FitTask) -> Any:
    """scikit-learn's pinball loss; only how the value of a leaf is found is another, as in `bins`."""
    from sklearn._loss.loss import PinballLoss

    class Loss(PinballLoss):  # type: ignore[misc]
        def fit_intercept_only(self, y_true: Floats, sample_weight: Floats | None = None) -> np.float64:
            assert sample_weight is not None, "every task has weights"
            return weighted_quantile(y_true, sample_weight, task.quantile)

    return Loss(sample_weight=task.weights, quantile=task.quantile)


def _as_trees(model: object, bins: Bins) -> Trees:
    """Copy the nodes out of a fitted model, which knows bins by number; scikit-learn has no public name for them."""
    trees = [predictors[0].nodes for predictors in model._predictors]  # type: ignore[attr-defined]
    sizes = [len(nodes) for nodes in trees]
    roots = np.concatenate(([0], np.cumsum(sizes)[:-1]))
    nodes = np.concatenate(trees)
    own = np.arange(len(nodes))
    offset = np.repeat(roots, sizes)
    leaf = nodes["is_leaf"].astype(bool)
    threshold = nodes["num_threshold"].astype(np.float64)
    for number in np.flatnonzero(~leaf):
        threshold[number] = bins.cut_between(int(nodes["feature_idx"][number]), threshold[number])
    return Trees(
        base=float(np.ravel(model._baseline_prediction)[0]),  # type: ignore[attr-defined]
        depth=int(nodes["depth"].max()),
        roots=roots.astype(np.int32),
        feature=np.where(leaf, 0, nodes["feature_idx"]).astype(np.int32),
        threshold=threshold,
        left=np.where(leaf, own, nodes["left"] + offset).astype(np.int32),
        right=np.where(leaf, own, nodes["right"] + offset).astype(np.int32),
        missing_left=nodes["missing_go_to_left"].astype(bool),
        value=np.where(leaf, nodes["value"], 0.0),
    )


class Refitter:
    """Fits in one background thread of low priority; a tick hands tasks over and takes results, and never waits."""

    def __init__(self, waiting: int = 1) -> None:
        """At most `waiting` tasks are with the worker at once: a later one is made from newer data instead."""
        self._waiting = waiting
        self._worker = ThreadPoolExecutor(1, "refit", initializer=_low_priority)
        self._fits: list[tuple[str, Foresight, Future[Trees]]] = []
        self.adopted: Callable[[str, int, Trees], None] | None = None  # told of trees that a pool's forecaster takes
        self._turn = 0
        self.failures = 0

    def exchange(self, memory: Memory) -> None:
        """Between two ticks: adopt what is ready, ask for what is due."""
        for entry in [entry for entry in self._fits if entry[2].done()]:
            self._fits.remove(entry)
            self._take(memory, *entry)
        names: Sequence[str] = list(memory.pools)
        for step in range(len(names)):
            if len(self._fits) >= self._waiting:
                return
            name = names[(self._turn + step) % len(names)]
            asking = next((f for f in _forecasters(memory, name) if f is not None and f.refit_due), None)
            if asking is None:
                continue
            self._turn = (self._turn + step + 1) % len(names)
            self._fits.append((name, asking, self._worker.submit(fit, asking.refit_task())))

    def _take(self, memory: Memory, name: str, forecaster: Foresight, done: Future[Trees]) -> None:
        if done.cancelled() or done.exception() is not None:
            self.failures += 1
            return
        asking = _forecasters(memory, name)
        if forecaster in asking:  # else another shape took its place meanwhile
            trees = done.result()
            forecaster.adopt(trees)
            if self.adopted is not None:
                self.adopted(name, asking.index(forecaster), trees)

    def settle(self, memory: Memory) -> None:
        """Fit and adopt all that is due, waiting for it: for a process that decides once."""
        while True:
            self.exchange(memory)
            if not self._fits:
                return
            for _, _, done in self._fits:
                done.exception()

    def close(self) -> None:
        """Begin no more fits. One under way, which may take long at its priority, holds up the process alone."""
        self._worker.shutdown(wait=False, cancel_futures=True)


def _forecasters(memory: Memory, name: str) -> list[Foresight | None]:
    """Those of a pool: of its lead, and of what a node takes where nodes are asked for; none of a pool that is gone."""
    state = memory.pools.get(name)
    return [] if state is None else [state.forecaster, state.ahead.forecaster]


def _low_priority() -> None:
    """On Linux a thread has a priority of its own."""
    os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 19)
