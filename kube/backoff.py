"""How long to wait after a failure: doubling, with jitter, never longer than a cap, the server's wish within it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass(slots=True)
class Backoff:
    """`random` gives [0, 1); a wait lies in [half, whole] of its step, so that clients do not come back together."""

    random: Callable[[], float]
    first_s: float = 0.5
    most_s: float = 30.0
    _failures: int = field(default=0, init=False)

    def failed(self, retry_after_s: float | None = None) -> float:
        """Seconds to wait after one more failure; the server's Retry-After lengthens them, up to the cap."""
        step_s = min(self.first_s * 2.0 ** min(self._failures, 32), self.most_s)
        self._failures += 1
        wait_s = step_s * (0.5 + 0.5 * self.random())
        return max(wait_s, min(retry_after_s or 0.0, self.most_s))

    def succeeded(self) -> None:
        self._failures = 0
