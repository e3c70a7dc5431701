"""Whose turn it is to ask a server that may hang: one wait for it a tick, and nobody waits behind another for ever."""

from __future__ import annotations


class Turns:
    """One read that got no answer ends a tick's asking; those that were not asked come first in the next tick."""

    def __init__(self) -> None:
        self._tick_s: float | None = None
        self._why = ""  # the tick's asking ended; empty: it goes on
        self._passed_over: set[str] = set()  # because of that, in this tick
        self._owed: set[str] = set()  # passed over in the last tick and not asked since
        self._silent: set[str] = set()  # got no answer the last time

    def refusal(self, name: str, now_s: float) -> str:
        """Why `name` is not to ask in the tick of `now_s`; empty: it may."""
        if now_s != self._tick_s:
            self._tick_s, self._why = now_s, ""
            self._owed, self._passed_over = self._passed_over, set()
        if self._why:
            self._passed_over.add(name)
            return self._why
        if name in self._owed:
            self._owed.discard(name)
            return ""
        # It alone may be slow: asked first in every tick it would keep all others from being asked.
        if name in self._silent and self._owed:
            return "it gave no answer in the last tick; pools that were not asked then come first"
        return ""

    def answered(self, name: str) -> None:
        self._silent.discard(name)

    def unanswered(self, name: str, why: str) -> None:
        """Nobody asks any more in this tick."""
        self._silent.add(name)
        self._why = f"not asked: pool {name!r} had no answer in this tick ({why})"
