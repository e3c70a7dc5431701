"""What an HPA that asks us is told: the newest decision as a count, or why there is none; never a guess."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from autoscaler.decision import Decision, Reason

METRIC = "splatfleet-desired-replicas"
TARGET = 1  # of the metric for each pod: the sum is then the count
HPA_TOLERANCE = 0.1

# A count is held for these because nothing is known: an HPA holds as well when it gets an error, and a fallback acts.
UNKNOWN = frozenset({Reason.NO_DATA, Reason.STALE, Reason.BLIND, Reason.OBSERVE_FAILED})

Cause = Literal["not_ready", "unknown_pool", "stale", "no_data"]


class NoAnswer(Exception):
    """Nothing is known that could be answered; `cause` is one of a closed list, the text says more."""

    def __init__(self, cause: Cause, text: str) -> None:
        super().__init__(text)
        self.cause = cause


@dataclass(frozen=True, slots=True)
class Posted:
    """The decisions of one tick and when they were made, on a monotonic clock."""

    decisions: dict[str, Decision]
    at_s: float


class Answers:
    """One thread posts, any thread asks; `fresh_s` is how old a decision may be."""

    def __init__(self, fresh_s: float) -> None:
        self._fresh_s = fresh_s
        self._posted: Posted | None = None

    def post(self, decisions: Sequence[Decision], now_s: float) -> None:
        self._posted = Posted({decision.pool: decision for decision in decisions}, now_s)

    def fresh(self, now_s: float) -> bool:
        """Whether the last tick is young enough to be answered by."""
        return self._posted is not None and now_s - self._posted.at_s <= self._fresh_s

    def decision(self, pool: str, now_s: float) -> Decision:
        """The newest decision of a pool. Raises NoAnswer."""
        posted = self._posted
        if posted is None:
            raise NoAnswer("not_ready", "nothing was decided yet")
        age_s = now_s - posted.at_s
        if age_s > self._fresh_s:
            raise NoAnswer(
                "stale", f"the last decision is {age_s:.0f} s old, at most {self._fresh_s:.0f} s are answered"
            )
        decision = posted.decisions.get(pool)
        if decision is None:
            known = ", ".join(sorted(posted.decisions)) or "none"
            raise NoAnswer("unknown_pool", f"pool {pool!r} is not decided for, only {known}")
        if decision.reason in UNKNOWN:
            raise NoAnswer("no_data", decision.explanation)
        return decision


def served_replicas(desired: int, current: int, tolerance: float = HPA_TOLERANCE) -> int:
    """The value at which an HPA asks for at least `desired` pods, though it ignores what is within its tolerance.

    A step up inside the tolerance is served as the smallest count outside it, so that no pod is missing; a step down
    inside it is left to the HPA, which keeps the pods. With a tolerance of 0 the count is exact.
    """
    if current > 0 and desired > current and desired <= current * (1.0 + tolerance) + 1e-9:
        return math.floor(current * (1.0 + tolerance) + 1e-9) + 1
    return desired
