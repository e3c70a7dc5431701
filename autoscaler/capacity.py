"""How many pods serve a demand at a waiting-time objective.

A pod renders one frame at a time, so a pool of c pods is a queue with c servers. Arrivals are taken as Poisson
(squared variation 1); the measured variation of the service time enters by Allen and Cunneen's correction.
"""

from __future__ import annotations

import math
from functools import lru_cache

from autoscaler.observation import ServiceTime
from autoscaler.pool import Objective

CORRECTION_BOUNDS = (0.8, 1.6)


def erlang_c(servers: int, load: float) -> float:
    """Probability that an arrival has to wait, in an M/M/c queue with `load` = rate x mean service (Erlangs).

    By the recursion of the Erlang B formula, B(c) = a B(c-1) / (c + a B(c-1)), and C = c B / (c - a (1 - B)).
    """
    if load <= 0:
        return 0.0
    if load >= servers:
        return 1.0
    blocking = _blocking(servers, load)
    return servers * blocking / (servers - load * (1.0 - blocking))


def _blocking(servers: int, load: float) -> float:
    """Erlang's B by its recursion."""
    known = _blockings(load)
    if servers in known:
        return known[servers]
    asked = len(known)
    blocking = known[asked - 1]
    for server in range(asked, servers + 1):
        known[server] = blocking = load * blocking / (server + load * blocking)
    return blocking


@lru_cache(16)
def _blockings(_load: float) -> dict[int, float]:
    """Erlang's B of 0, 1, 2, … servers, as far as anybody asked: a tick asks for a few loads, of each several times.

    Whoever adds to it writes what any other thread would.
    """
    return {0: 1.0}


def wait_tail(wait_s: float, servers: int, rate_per_s: float, service: ServiceTime) -> float:
    """Probability of waiting longer than `wait_s`: C(c, a) exp(-(c mu - lambda) W), Allen-Cunneen corrected.

    The correction divides the decay rate by (1 + cv^2) / 2; 1.0 for an unstable queue.
    """
    load = rate_per_s * service.mean_s
    if load >= servers:
        return 1.0 if rate_per_s > 0 else 0.0
    return erlang_c(servers, load) * _decay(wait_s, servers - load, service)


def _decay(wait_s: float, spare: float, service: ServiceTime) -> float:
    variation = max((1.0 + service.cv**2) / 2.0, 0.5)
    exponent = spare / service.mean_s * wait_s / variation
    return math.exp(-exponent)


def replicas_for(rate_per_s: float, service: ServiceTime, objective: Objective, limit: int = 10_000) -> int:
    """The fewest pods with P(wait > W) <= the objective; 0 without demand, `limit` where more would be needed."""
    load = rate_per_s * service.mean_s
    if load <= 0:
        return 0
    if not load < limit - 1:
        return limit
    for servers in range(int(load) + 1, limit):
        blocking = _blocking(servers, load)
        waiting = servers * blocking / (servers - load * (1.0 - blocking))
        if waiting * _decay(objective.max_queue_wait_s, servers - load, service) <= objective.violation_ratio:
            return servers
    return limit


def expected_queue_to_compute(servers: int, rate_per_s: float, service: ServiceTime) -> float | None:
    """Mean wait over mean service that the model foresees, C / (c - a) x (1 + cv^2) / 2; None when unstable."""
    load = rate_per_s * service.mean_s
    if load >= servers:
        return None
    return erlang_c(servers, load) / (servers - load) * (1.0 + service.cv**2) / 2.0


def corrected(
    correction: float, observed: float | None, foreseen: float | None, tolerated: float, share: float
) -> float:
    """Move the service-time correction one small step towards what was observed.

    `observed` and `foreseen` are queue-to-compute ratios of the same moment and the same pods, `tolerated` is that of
    a pool which just meets its objective, `share` is the part of a lead time that a step stands for. Up by 5 % a lead
    where requests wait clearly longer than foreseen and tolerated; down by 1.25 % where pods that should make them
    wait do not (ample pods, where nobody waits, say nothing); else back towards 1. Never beyond CORRECTION_BOUNDS:
    the ratio is noisy and lags, so it may calibrate but never steer.
    """
    if observed is None or foreseen is None:
        return correction
    low, high = CORRECTION_BOUNDS
    if observed > 2.0 * max(foreseen, tolerated) + 0.05:
        return min(correction * math.exp(0.05 * share), high)
    step = math.exp(0.0125 * share)
    if observed < 0.5 * foreseen and foreseen > 0.1:
        return max(correction / step, low)
    return max(correction / step, 1.0) if correction > 1.0 else min(correction * step, 1.0)
