"""The line of waiting requests: how long it will be when a pod that is asked for now is ready, and who drains it."""

from __future__ import annotations

import math

from autoscaler.observation import Observation


def backlog(observation: Observation) -> float:
    """Waiting requests beyond the one each ready pod may have in passing."""
    return max(0.0, (observation.pending or 0.0) - observation.ready)


def backlog_ahead(observation: Observation, rate_per_s: float | None, service_s: float, startup_s: float) -> float:
    """Requests that will wait in `startup_s` seconds, were no pod asked for now.

    A fluid line: it grows by the demand and shrinks by what ready pods render, and by what each starting pod renders
    from the end of its start-up on; one that is late by more than another start-up is not counted on. Without a known
    demand it is taken for what the ready pods can render.
    """
    waiting = backlog(observation)
    if waiting <= 0:
        return 0.0
    pods = observation.ready
    demand = pods / service_s if rate_per_s is None else rate_per_s
    joins_s = sorted(max(0.0, startup_s - pod.age_s) for pod in observation.starting if pod.age_s <= 2 * startup_s)
    now_s = 0.0
    for join_s in (*joins_s, startup_s):
        waiting = max(0.0, waiting + (demand - pods / service_s) * (join_s - now_s))
        now_s, pods = join_s, pods + 1
    return waiting


def drain_replicas(waiting: float, service_s: float, drain_s: float) -> int:
    """Pods that work a line of `waiting` requests off within `drain_s`, on top of those for new arrivals."""
    if waiting <= 0 or drain_s <= 0:
        return 0
    return math.ceil(waiting * service_s / drain_s - 1e-9)
