"""The line that will have formed, by hand, and the pods that drain it."""

from __future__ import annotations

import numpy as np
import pytest

from autoscaler.backlog import backlog_ahead, drain_replicas
from autoscaler.decision import Decision, Reason
from autoscaler.memory import PoolMemory
from autoscaler.observation import Observation, ServiceTime, StartingPod
from autoscaler.policy import decide
from autoscaler.pool import Pool


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


POOL = Pool("p", max_replicas=50, tick_s=1.0, service_s=0.155, startup_s=40.0)


def played(lines: list[float], ready: int = 1) -> list[Decision]:
    """A tick a second over the lines that were seen, half a minute after the last arrival; what is asked for starts."""
    memory, decisions = PoolMemory(last_replicas=ready), []
    for second, line in enumerate(lines):
        starting = tuple(StartingPod(f"s{i}", 1.0) for i in range((decisions[-1].replicas if decisions else 1) - ready))
        demand = np.array([2.0] * 60 + [0.0] * (second + 30))
        decisions.append(
            decide(
                POOL,
                Observation(
                    "p",
                    1000.0 + second,
                    1.0,
                    demand,
                    ready,
                    ready + len(starting),
                    starting=starting,
                    pending=line,
                    service=ServiceTime(0.155, 0.3, 500),
                ),
                memory,
            )
        )
    return decisions


def test_a_line_that_does_not_shrink_is_demand_though_nobody_is_said_to_arrive() -> None:
    """211 waited for 33 s before one pod: it renders 6.5 a second, so the line is joined or not served.

    By the count they are gone before a pod could be ready. 210 x 0.155 s of work within a lead of 41 s: one pod more.
    """
    decisions = played([211.0] * 33)
    asked = [decision.replicas for decision in decisions]
    assert max(asked) == 2
    assert asked.index(2) <= 5
    assert decisions[asked.index(2)].reason is Reason.PENDING
    assert "though nobody is said to arrive" in decisions[10].explanation


def test_a_line_that_shrinks_as_pods_render_asks_for_none() -> None:
    """40 came at once and are gone within the start-up of a pod."""
    assert {decision.replicas for decision in played([max(0.0, 30.0 - 6.4 * second) for second in range(10)])} == {1}


def test_a_gauge_that_is_stuck_asks_once() -> None:
    """Whatever serves, 211 wait: each new pod is no reason for the next."""
    memory, desired = PoolMemory(last_replicas=1), 1
    for second in range(600):
        demand = np.zeros(60)
        observation = Observation("p", 1000.0 + second, 1.0, demand, desired, desired, pending=211.0)
        decision = decide(POOL, observation, memory)
        desired = decision.replicas
    assert desired == 2
