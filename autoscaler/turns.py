"""Whose turn it is to ask a server that may hang: one wait for it a tick, and nobody waits behind another for ever."""

from __future__ import annotations

LONGEST_PAUSE = 16  # ticks


class Turns:
    """One read that got no answer ends a tick's asking; those that were not asked come first in the next tick.

    A pool that gets none again and again while others do is slow by itself: it is asked after pauses that double, so
    that the others go without an answer in few ticks and not in every second one.
    """

    def __init__(self) -> None:
        self._tick_s: float | None = None
        self._tick = 0
        self._why = ""  # the tick's asking ended; empty: it goes on
        self._passed_over: set[str] = set()  # because of that, in this tick
        self._owed: set[str] = set()  # passed over in the last tick and not asked since
        self._silent: dict[str, int] = {}  # got no answer the last time -> the tick of it
        self._pauses: dict[str, int] = {}  # of those that alone got none: ticks
        self._answered = -1  # the last tick in which somebody got an answer

    def refusal(self, name: str, now_s: float) -> str:
        """Why `name` is not to ask in the tick of `now_s`; empty: it may."""
        if now_s != self._tick_s:
            self._tick_s, self._tick, self._why = now_s, self._tick + 1, ""
            self._owed, self._passed_over = self._passed_over, set()
        if self._why:
            self._passed_over.add(name)
            return self._why
        if (left := self._silent.get(name, 0) + self._pauses.get(name, 0) - self._tick) > 0:
            self._owed.discard(name)  # it waits for its own sake
            return f"it alone gave no answer again and again; it is asked in {left} ticks"
        if name in self._owed:
            self._owed.discard(name)
            return ""
        # It alone may be slow: asked first in every tick it would keep all others from being asked.
        if name in self._silent and self._owed:
            return "it gave no answer in the last tick; pools that were not asked then come first"
        return ""

    def answered(self, name: str) -> None:
        self._answered = self._tick
        self._silent.pop(name, None)
        if self._pauses.pop(name, 0):
            self._pauses.clear()  # what was slow is no more: the others that were may try as well

    def unanswered(self, name: str, why: str) -> None:
        """Nobody asks any more in this tick."""
        if name in self._silent and self._answered >= self._silent[name]:
            self._pauses[name] = min(LONGEST_PAUSE, 2 * self._pauses.get(name, 1))
        self._silent[name] = self._tick
        self._why = f"not asked: pool {name!r} had no answer in this tick ({why})"
