"""How many audit lines a second are written: who floods a part with refused requests does not flood its log."""

from __future__ import annotations

LINES_PER_S = 10.0


class LineBudget:
    """A token bucket of lines; what had no line is counted and told with the next one."""

    def __init__(self, per_s: float = LINES_PER_S) -> None:
        self._per_s = per_s
        self._left = per_s
        self._at_s = 0.0
        self._left_out = 0

    def take(self, now_s: float) -> int | None:
        """How many were left out since the last line, where there is one to be written; None where there is not."""
        self._left = min(self._per_s, self._left + (now_s - self._at_s) * self._per_s)
        self._at_s = now_s
        if self._left < 1.0:
            self._left_out += 1
            return None
        self._left -= 1.0
        found, self._left_out = self._left_out, 0
        return found
