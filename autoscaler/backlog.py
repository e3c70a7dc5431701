"""The line of waiting requests: how long it will be when a pod that is asked for now is ready, and who drains it."""

from __future__ import annotations

import math
from dataclasses import dataclass

from autoscaler.observation import Observation

JUDGED_FRAMES = 4.0  # that ready pods can render, before it is said whether a line gets shorter


@dataclass
class StandingLine:
    """A line that waits although the count of arrivals says that nobody came: does it get shorter?

    Told of every tick. What nobody joins shrinks as fast as the ready pods render; a line that does not by half of
    that is joined by somebody who is not counted, or is not served, and either way it is demand.
    """

    waiting: float = 0.0  # when it was last judged
    at_s: float = math.nan  # of the last look; nan: there is no such line
    ready: int = 0  # at the last look
    could_render: float = 0.0  # frames, since it was last judged
    pods: int = 0  # that it keeps busy: those that were ready when it was first found to stand

    def look(self, observation: Observation, rate_per_s: float | None, service_s: float) -> int:
        """Pods whose work the line stands for, 0 where it shrinks; never more than there were at first.

        A gauge that is stuck therefore asks for the pods that drain its line once, not again with every pod it got.
        """
        waiting = backlog(observation)
        if waiting <= 0 or rate_per_s != 0.0:
            self.at_s, self.pods = math.nan, 0
            return 0
        if math.isnan(self.at_s):
            self.waiting, self.could_render, self.pods = waiting, 0.0, 0
        else:
            self.could_render += self.ready * max(0.0, observation.now_s - self.at_s) / service_s
        if self.could_render >= JUDGED_FRAMES:
            stands = self.waiting - waiting < self.could_render / 2
            self.pods = (self.pods or self.ready) if stands else 0
            self.waiting, self.could_render = waiting, 0.0
        self.at_s, self.ready = observation.now_s, observation.ready
        return self.pods


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
