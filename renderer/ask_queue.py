"""Asks for scenes in the order in which they are carried out: by priority, then by deadline; the urgent overtake."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass

from fleet.scene import SceneId

PRELOAD_PRIORITY = -1000  # below all that anybody may ask for


@dataclass(frozen=True, slots=True)
class Ask:
    """A scene wanted on this node's disk. Times are of the clock that the caller passes."""

    scene: SceneId
    priority: int  # higher goes first
    deadline_s: float
    asked_s: float

    @property
    def is_preload(self) -> bool:
        """Whether nobody asked but the agent itself: it has no deadline and evicts nothing."""
        return self.priority == PRELOAD_PRIORITY

    @property
    def rank(self) -> tuple[int, float, float, str]:
        """Lower goes first."""
        return (-self.priority, self.deadline_s, self.asked_s, self.scene)


class AskQueue:
    """What waits and what runs, at most `slots` at once; one ask a scene."""

    def __init__(self, slots: int) -> None:
        if slots < 1:
            raise ValueError(f"slots is {slots}, expected at least 1")
        self._slots = slots
        self._waiting: dict[SceneId, Ask] = {}
        self._running: dict[SceneId, Ask] = {}
        self._to_pause: set[SceneId] = set()
        self._dropped: set[SceneId] = set()  # of the running ones
        self._told_late: set[SceneId] = set()

    @property
    def waiting(self) -> Mapping[SceneId, Ask]:
        return self._waiting

    @property
    def running(self) -> Mapping[SceneId, Ask]:
        return self._running

    def put(self, ask: Ask) -> Ask:
        """Take an ask in; one that is there already keeps its age and gets the more urgent of both terms."""
        where = self._running if ask.scene in self._running else self._waiting
        known = where.get(ask.scene)
        if known is not None:
            ask = dataclasses.replace(
                known, priority=max(known.priority, ask.priority), deadline_s=min(known.deadline_s, ask.deadline_s)
            )
        where[ask.scene] = ask
        self._dropped.discard(ask.scene)
        return ask

    def take(self) -> Ask | None:
        """The next ask to run, moved to the running ones; None where nothing waits or every slot is taken."""
        if len(self._running) >= self._slots or not self._waiting:
            return None
        ask = min(self._waiting.values(), key=lambda each: each.rank)
        self._running[ask.scene] = self._waiting.pop(ask.scene)
        return ask

    def overtaken(self) -> Ask | None:
        """A running ask that should give its slot to a more urgent one that waits; each is named once a run."""
        free = self._slots - len(self._running) + len(self._to_pause)
        ahead = sorted(self._waiting.values(), key=lambda each: each.rank)[free : free + 1]
        candidates = [ask for ask in self._running.values() if ask.scene not in self._to_pause]
        if not ahead or not candidates:
            return None
        last = max(candidates, key=lambda each: each.rank)
        # Priority and deadline only: an equal ask never stops one that runs.
        if (-ahead[0].priority, ahead[0].deadline_s) >= (-last.priority, last.deadline_s):
            return None
        self._to_pause.add(last.scene)
        return last

    def is_to_pause(self, scene: SceneId) -> bool:
        """Whether a running ask should stop: another overtakes it, or it was dropped."""
        return scene in self._to_pause

    def paused(self, scene: SceneId) -> None:
        """A running ask stopped on the way; it waits again, unless it was dropped."""
        ask = self._running.pop(scene)
        self._to_pause.discard(scene)
        if scene in self._dropped:
            self._dropped.discard(scene)
        else:
            self._waiting[scene] = ask

    def finished(self, scene: SceneId) -> Ask:
        """A running ask ended, well or badly."""
        self._to_pause.discard(scene)
        self._dropped.discard(scene)
        self._told_late.discard(scene)
        return self._running.pop(scene)

    def drop(self, scene: SceneId) -> bool:
        """Forget an ask, or have it stop where it runs; False where there is none."""
        self._told_late.discard(scene)
        if scene in self._running:
            self._dropped.add(scene)
            self._to_pause.add(scene)
            return True
        return self._waiting.pop(scene, None) is not None

    def late(self, now_s: float) -> list[Ask]:
        """Asks whose deadline has passed, each told once; they stay: late is better than never."""
        found = [
            ask
            for ask in (*self._waiting.values(), *self._running.values())
            if ask.deadline_s < now_s and ask.scene not in self._told_late
        ]
        self._told_late.update(ask.scene for ask in found)
        return found
