"""The line that will have formed, by hand, and the pods that drain it."""

from __future__ import annotations

import numpy as np
import pytest

from autoscaler.backlog import backlog_ahead, drain_replicas
from autoscaler.observation import Observation, StartingPod


def seen(pending: float, ready: int, ages_s: tuple[float, ...] = ()) -> Observation:
    starting = tuple(StartingPod(f"s{age_s:g}", age_s) for age_s in ages_s)
    desired = ready + len(ages_s)
    return Observation("p", 0.0, 1.0, np.zeros(0), ready, desired, starting=starting, pending=pending)


@pytest.mark.parametrize(
    ("observation", "rate_per_s", "expected"),
    [
        (seen(4.0, 4), 100.0, 0.0),  # one a pod is in passing
        (seen(14.0, 4), 16.0, 10.0),  # 4 pods render 16/s: it stays
        (seen(14.0, 4), 17.0, 20.0),  # one more a second for 10 s
        (seen(14.0, 4), 15.5, 5.0),
        (seen(14.0, 4), 10.0, 0.0),
        (seen(14.0, 4, (4.0,)), 18.0, 14.0),  # two more a second for 6 s, two fewer for 4 s
        (seen(14.0, 4, (25.0,)), 17.0, 20.0),  # late by more than another start-up: not counted on
        (seen(14.0, 4), None, 10.0),  # demand not known: as much as is rendered
        (seen(7.0, 0), 0.0, 7.0),
    ],
)
def test_the_line_ahead(observation: Observation, rate_per_s: float | None, expected: float) -> None:
    assert backlog_ahead(observation, rate_per_s, service_s=0.25, startup_s=10.0) == pytest.approx(expected)


def test_drain() -> None:
    assert drain_replicas(40, 0.15, 3.0) == 2  # 6 s of work in 3 s
    assert drain_replicas(41, 0.15, 3.0) == 3
    assert drain_replicas(0, 0.15, 3.0) == 0
