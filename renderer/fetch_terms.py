"""How a fetch may go: how often it is tried, until when, and whether it is still wanted."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable

_WATCH_S = 0.05


class Stopped(Exception):
    """A download that was told to stop; what came of it stays and is resumed."""


@dataclasses.dataclass(frozen=True, slots=True)
class Terms:
    """How a download may go. `end_s` (monotonic) is its total deadline; `stopped` is asked many times a second."""

    ranges: int = 8  # requests at once
    retries: int = 4  # of a block that brings nothing
    end_s: float | None = None
    stopped: Callable[[], bool] = lambda: False
    may_evict: bool = True  # else it takes room that is free, or none

    def left_s(self) -> float:
        """Seconds until the deadline; infinite without one."""
        return float("inf") if self.end_s is None else self.end_s - time.monotonic()

    def pause(self, seconds: float) -> None:
        """Sleep so long, or until the deadline; raises Stopped where the fetch is not wanted any more."""
        end_s = time.monotonic() + min(seconds, max(0.0, self.left_s()))
        while (left_s := end_s - time.monotonic()) > 0:
            if self.stopped():
                raise Stopped("stopped while it waited for a busy server")
            time.sleep(min(_WATCH_S, left_s))
