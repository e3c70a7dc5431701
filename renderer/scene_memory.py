"""The bytes of scenes in a pod's memory: what is resident, loading or draining, and what goes for what.

Who goes first is renderer.eviction's to say. A scene that is unlinked counts as draining until the last frame that uses
it ends. No scene goes for one that can never fit, and none that frames have just used goes for a preload.
"""

from __future__ import annotations

import math
import threading
import time
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Generic, Literal, Protocol, TypeVar

from fleet.scene import SceneId
from renderer.eviction import SmallMainFifo

Value = TypeVar("Value")
Cause = Literal["budget", "drop", "memory"]

_LOOK_AGAIN_S = 0.25  # whether frames have let go of what a preload may then replace


class OverBudget(Exception):
    """A scene that the pod's memory budget cannot hold (now or ever)."""


class NoRoomToPreload(OverBudget):
    """A preload that was given up for the sake of frames."""


class CacheWatcher(Protocol):
    """Who counts what the cache does; called with the cache's lock held, so it must be quick."""

    def looked_up(self, hit: bool) -> None: ...

    def evicted(self, scene: SceneId, cause: Cause) -> None: ...

    def changed(self, resident: dict[SceneId, int], draining_bytes: int) -> None: ...


@dataclass(eq=False, slots=True)
class Slot(Generic[Value]):
    """One scene in memory or on its way."""

    scene: SceneId
    ready: threading.Event = field(default_factory=threading.Event)
    value: Value | None = None
    error: Exception | None = None
    size_bytes: int = 0
    pins: int = 0
    waiters: int = 0
    unlinked: bool = False
    is_preload: bool = False
    used_s: float = -math.inf  # by a frame, of the cache's clock
    awaited_s: float = math.inf  # by a frame since then, of the cache's clock


class SceneMemory(Generic[Value]):
    """Scenes by use and their bytes. What takes the lock says so; everything else is called with `changed` held."""

    def __init__(self, budget_bytes: int, watcher: CacheWatcher, patience_s: float, preload_spares_s: float) -> None:
        """`patience_s`: how long a load waits for bytes of others; preloads spare what a frame used that lately."""
        self.budget_bytes = budget_bytes
        self.changed = threading.Condition()
        self.slots: OrderedDict[SceneId, Slot[Value]] = OrderedDict()  # least recently used first
        self.order: SmallMainFifo[SceneId] = SmallMainFifo(budget_bytes)
        self._watcher = watcher
        self.patience_s = patience_s
        self._preload_spares_s = preload_spares_s
        self._draining: list[Slot[Value]] = []

    def draining_bytes(self) -> int:
        return sum(slot.size_bytes for slot in self._draining)

    def resident(self) -> dict[SceneId, int]:
        return {scene: slot.size_bytes for scene, slot in self.slots.items() if slot.ready.is_set()}

    def reserve(self, slot: Slot[Value], need_bytes: int) -> None:
        """Make room for a load, evicting what is used least; raises OverBudget. Takes the lock."""
        if need_bytes > self.budget_bytes:
            raise OverBudget(f"scene {slot.scene} takes {need_bytes} bytes, the pod's budget is {self.budget_bytes}")
        give_up_s = time.monotonic() + self.patience_s
        with self.changed:
            slot.size_bytes = 0
            while self.held_bytes() + need_bytes > self.budget_bytes:
                spared_s = time.monotonic() - self._preload_spares_s if slot.is_preload else math.inf
                enough_drains = self.held_bytes() - self.draining_bytes() + need_bytes <= self.budget_bytes
                if not enough_drains and (
                    self.evict_one("budget", True, spared_s) or self.evict_one("budget", False, spared_s)
                ):
                    continue
                if slot.is_preload and not enough_drains and time.monotonic() < give_up_s:
                    self.changed.wait(_LOOK_AGAIN_S)
                    continue
                if slot.is_preload and not enough_drains:
                    raise NoRoomToPreload(f"scene {slot.scene} would take the place of what frames use now")
                if not self.changed.wait(self.patience_s):
                    raise OverBudget(
                        f"scene {slot.scene} takes {need_bytes} bytes; of the pod's {self.budget_bytes} "
                        f"{self.held_bytes()} are in use by frames and other loads"
                    )
            slot.size_bytes = need_bytes

    def held_bytes(self) -> int:
        return sum(slot.size_bytes for slot in self.slots.values()) + self.draining_bytes()

    def evict_one(self, cause: Cause, unpinned: bool, spared_s: float = math.inf) -> bool:
        """Evict one that no frame used since `spared_s`; False where there is none."""

        def may_go(scene: SceneId) -> bool:
            slot = self.slots[scene]
            return not (unpinned and slot.pins) and slot.used_s < spared_s

        scene = self.order.next_to_go(may_go)
        if scene is not None:
            self.unlink(self.slots[scene], cause)
        return scene is not None

    def unlink(self, slot: Slot[Value], cause: Cause) -> None:
        del self.slots[slot.scene]
        self.order.went(slot.scene)
        slot.unlinked = True
        if slot.pins:
            self._draining.append(slot)
        else:
            slot.value = None
        self._watcher.evicted(slot.scene, cause)
        self.tell()

    def unpin(self, slot: Slot[Value]) -> None:
        with self.changed:
            slot.pins -= 1
            if slot.unlinked and not slot.pins and slot in self._draining:
                self._draining.remove(slot)
                slot.value = None
                self.tell()

    def tell(self) -> None:
        self._watcher.changed(self.resident(), self.draining_bytes())
        self.changed.notify_all()
