"""What is resident in a pod's memory: bounded in bytes, pinned while in use, one load a scene.

Who goes is renderer.eviction's to say. Frames come thirty a second where somebody looks: uses of a scene that lie less
than ten seconds apart are one visit.

Dropping a scene unlinks it at once; its bytes count as draining until the last frame that uses it ends.
No scene is thrashed for one that can never fit: that one is refused. A load that failed is not tried again for a
few seconds: everybody who asks meanwhile gets the same error at once.

A preload (a scene that nobody waits for yet) is of low priority: one at a time, begun only while no frame waits for a
load, overtaken by a frame that asks for its scene, and never in place of what frames have just used.
"""

from __future__ import annotations

import contextlib
import math
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Generic, Literal, Protocol, TypeVar

from fleet.scene import SceneId
from renderer.eviction import SmallMainFifo

Value = TypeVar("Value")
Loaded = TypeVar("Loaded", covariant=True)
Result = Literal["hit", "wait", "load"]
State = Literal["unknown", "loading", "resident", "failed"]
Cause = Literal["budget", "drop", "memory"]
Priority = Literal["demand", "preload"]

_LOOK_AGAIN_S = 0.25  # whether frames have let go of what a preload may then replace


class OverBudget(Exception):
    """A scene that the pod's memory budget cannot hold (now or ever)."""


class NoRoomToPreload(OverBudget):
    """A preload that was given up for the sake of frames."""


class StillLoading(Exception):
    """A scene on its way for which nobody more can wait, or this asker not longer; ask again, or another pod."""


class SceneLoader(Protocol[Loaded]):
    """Brings a scene into memory; slow, called without the cache's lock."""

    def __call__(self, scene: SceneId, reserve: Callable[[int], None]) -> Loaded:
        """Load a scene; call `reserve` with its exact bytes before anything of that size is allocated."""
        ...


class CacheWatcher(Protocol):
    """Who counts what the cache does; called with the cache's lock held, so it must be quick."""

    def looked_up(self, hit: bool) -> None: ...

    def evicted(self, scene: SceneId, cause: Cause) -> None: ...

    def changed(self, resident: dict[SceneId, int], draining_bytes: int) -> None: ...


@dataclass(eq=False, slots=True)
class _Slot(Generic[Value]):
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


@dataclass(frozen=True, slots=True)
class _Failure:
    error: Exception
    until_s: float  # of the cache's clock; then the next ask tries again


@dataclass(slots=True)
class Pin(Generic[Value]):
    """A scene in use; its value is gone when the use is over."""

    value: Value
    result: Result
    size_bytes: int


class SceneCache(Generic[Value]):
    """Scenes in memory, at most `budget_bytes` together with what is loading and draining. Thread-safe."""

    def __init__(
        self,
        budget_bytes: int,
        load: SceneLoader[Value],
        watcher: CacheWatcher,
        patience_s: float = 30.0,
        retry_after_s: float = 5.0,
        max_waiters: int = 128,
        preload_spares_s: float = 5.0,
        visit_s: float = 10.0,
        frame_waits_s: float = math.inf,
    ) -> None:
        """`patience_s`: how long a load waits for bytes that others use; `retry_after_s`: how long a failure stands.

        `max_waiters` may wait for one load. A preload evicts nothing that a frame used within `preload_spares_s`.
        Frames wait for a load until `frame_waits_s` after the first of them asked.
        """
        if budget_bytes <= 0:
            raise ValueError(f"budget_bytes is {budget_bytes}, expected more than 0")
        self.budget_bytes = budget_bytes
        self._load = load
        self._watcher = watcher
        self._patience_s = patience_s
        self._retry_after_s = retry_after_s
        self._max_waiters = max_waiters
        self._preload_spares_s = preload_spares_s
        self._visit_s = visit_s
        self._frame_waits_s = frame_waits_s
        self._changed = threading.Condition()
        self._slots: OrderedDict[SceneId, _Slot[Value]] = OrderedDict()  # least recently used first
        self._order: SmallMainFifo[SceneId] = SmallMainFifo(budget_bytes)
        self._draining: list[_Slot[Value]] = []
        self._failures: dict[SceneId, _Failure] = {}
        self._preloads: set[SceneId] = set()  # asked for, not begun
        self._demand_loads = 0
        self._preloading = False

    @contextlib.contextmanager
    def pinned(self, scene: SceneId, wait_s: float | None = None) -> Iterator[Pin[Value]]:
        """Hold a scene for one frame, loading it if need be; raises what the load raised.

        Raises StillLoading where the load is not done after `wait_s`, or has gone on for longer than a frame waits,
        or too many wait already. The load goes on.
        """
        slot, result = self._claim(scene, for_frame=True)
        try:
            if result == "load":
                self._fill_apart(slot)
            self._wait_for(slot, wait_s)
            self._visit(slot)
            pin: Pin[Value] = Pin(slot.value, result, slot.size_bytes)  # type: ignore[arg-type]
            try:
                yield pin
            finally:
                del pin.value  # before the pin ends: from then on another load may count on these bytes
        finally:
            self._unpin(slot)

    def warm(self, scene: SceneId, priority: Priority = "demand") -> tuple[State, str]:
        """Start loading a scene in a thread of its own; answers at once with its state and, failed, why."""
        state, message = self.state(scene)
        with self._changed:
            overtakes = priority == "demand" and self._unqueue(scene)
            if state != "unknown" and not overtakes:
                return state, message
            if priority == "preload":
                self._preloads.add(scene)
        work = self._preload if priority == "preload" else self.load
        threading.Thread(target=work, args=(scene,), name=f"warm-{scene}", daemon=True).start()
        return "loading", ""

    def load(self, scene: SceneId) -> None:
        """Have a scene in memory ahead of any frame; a failure is kept for `state`."""
        with contextlib.suppress(Exception):
            slot, result = self._claim(scene, for_frame=False)
            try:
                if result == "load":
                    self._fill(slot)
            finally:
                self._unpin(slot)

    def _preload(self, scene: SceneId) -> None:
        with self._changed:
            while scene in self._preloads and (self._demand_loads or self._preloading):
                self._changed.wait()
            if not self._unqueue(scene) or scene in self._slots:
                return  # dropped, or somebody was quicker
            self._preloading = True
            slot = self._slots[scene] = _Slot(scene, is_preload=True, pins=1)
        try:
            self._fill(slot)
        finally:
            with self._changed:
                self._preloading = False
                self._changed.notify_all()
            self._unpin(slot)

    def _visit(self, slot: _Slot[Value]) -> None:
        now_s, before_s = time.monotonic(), slot.used_s
        slot.used_s = now_s
        if now_s - before_s >= self._visit_s and before_s != -math.inf:
            with self._changed:
                self._order.visited(slot.scene)

    def _wait_for(self, slot: _Slot[Value], wait_s: float | None) -> None:
        if not slot.ready.is_set():
            with self._changed:
                slot.awaited_s = min(slot.awaited_s, time.monotonic())
                end_s = slot.awaited_s + min(self._frame_waits_s, threading.TIMEOUT_MAX / 2)
                left_s = min(end_s - time.monotonic(), math.inf if wait_s is None else wait_s)
                if slot.waiters >= self._max_waiters:
                    raise StillLoading(f"scene {slot.scene} is loading and {slot.waiters} wait for it already")
                slot.waiters += 1
            try:
                if not slot.ready.wait(max(0.0, left_s)):
                    awaited_s = time.monotonic() - slot.awaited_s
                    raise StillLoading(f"scene {slot.scene} is still loading after {awaited_s:.3g} s; ask again")
            finally:
                with self._changed:
                    slot.waiters -= 1
        if slot.error is not None:
            raise slot.error

    def state(self, scene: SceneId) -> tuple[State, str]:
        """Where a scene stands; of a failed one also why."""
        with self._changed:
            slot = self._slots.get(scene)
            if slot is not None and slot.error is None:
                return ("resident" if slot.ready.is_set() else "loading"), ""
            if scene in self._preloads:
                return "loading", ""
            failure = self._failure(scene)
            return ("failed", str(failure) or type(failure).__name__) if failure is not None else ("unknown", "")

    def drop(self, scene: SceneId) -> bool:
        """Forget a scene or a preload that has not begun; False where there is neither. Frames that use it end."""
        with self._changed:
            self._failures.pop(scene, None)
            slot = self._slots.get(scene)
            if slot is None or not slot.ready.is_set():
                return self._unqueue(scene)
            self._unlink(slot, "drop")
            return True

    def resident(self) -> dict[SceneId, int]:
        """Bytes by scene, least recently used first."""
        with self._changed:
            return self._resident()

    def draining_bytes(self) -> int:
        """Bytes of scenes that were evicted while a frame used them."""
        with self._changed:
            return self._draining_bytes()

    def _draining_bytes(self) -> int:
        return sum(slot.size_bytes for slot in self._draining)

    def _resident(self) -> dict[SceneId, int]:
        return {scene: slot.size_bytes for scene, slot in self._slots.items() if slot.ready.is_set()}

    def _unqueue(self, scene: SceneId) -> bool:
        """Take a preload back that has not begun; False where there is none."""
        if scene not in self._preloads:
            return False
        self._preloads.remove(scene)
        self._changed.notify_all()
        return True

    def _failure(self, scene: SceneId) -> Exception | None:
        failure = self._failures.get(scene)
        if failure is not None and time.monotonic() >= failure.until_s:
            del self._failures[scene]
            return None
        return failure.error if failure is not None else None

    def _claim(self, scene: SceneId, for_frame: bool) -> tuple[_Slot[Value], Result]:
        with self._changed:
            self._unqueue(scene)
            slot = self._slots.get(scene)
            result: Result = "load"
            if slot is None:
                failure = self._failure(scene)
                if failure is not None:
                    raise failure
                slot = self._slots[scene] = _Slot(scene)
            else:
                result = "hit" if slot.ready.is_set() else "wait"
                if slot.is_preload:
                    slot.is_preload = False  # somebody waits for it now
                    self._changed.notify_all()
            self._slots.move_to_end(scene)
            slot.pins += 1
            if for_frame:
                self._watcher.looked_up(hit=result == "hit")
            return slot, result

    def _fill_apart(self, slot: _Slot[Value]) -> None:
        """Load in a thread of its own, which goes on when the frame that asked waits no longer."""

        def fill() -> None:
            try:
                self._fill(slot)
            finally:
                self._unpin(slot)

        with self._changed:
            slot.pins += 1
        threading.Thread(target=fill, name=f"load-{slot.scene}", daemon=True).start()

    def _fill(self, slot: _Slot[Value]) -> None:
        demanded = not slot.is_preload
        with self._changed:
            self._demand_loads += demanded
        try:
            self._load_into(slot)
        finally:
            with self._changed:
                self._demand_loads -= demanded
                self._changed.notify_all()

    def _load_into(self, slot: _Slot[Value]) -> None:
        try:
            try:
                slot.value = self._load(slot.scene, lambda size: self._reserve(slot, size))
            except MemoryError:
                with self._changed:
                    evicted = self._evict_one("memory", unpinned=True)
                if not evicted:
                    raise
                slot.value = self._load(slot.scene, lambda size: self._reserve(slot, size))
        except Exception as error:
            self._fail(slot, error)
            return
        except BaseException as error:
            self._fail(slot, RuntimeError(f"load of {slot.scene} was interrupted: {error!r}"))
            raise
        with self._changed:
            self._failures.pop(slot.scene, None)
            slot.ready.set()
            self._order.came(slot.scene, slot.size_bytes)
            self._tell()

    def _fail(self, slot: _Slot[Value], error: Exception) -> None:
        with self._changed:
            slot.error, slot.size_bytes = error, 0
            if not isinstance(error, NoRoomToPreload):  # a frame may have it all the same
                self._failures[slot.scene] = _Failure(error, time.monotonic() + self._retry_after_s)
            if self._slots.get(slot.scene) is slot:
                del self._slots[slot.scene]
            slot.ready.set()
            self._tell()

    def _reserve(self, slot: _Slot[Value], need_bytes: int) -> None:
        """Make room for a load, evicting what is used least; raises OverBudget."""
        if need_bytes > self.budget_bytes:
            raise OverBudget(f"scene {slot.scene} takes {need_bytes} bytes, the pod's budget is {self.budget_bytes}")
        give_up_s = time.monotonic() + self._patience_s
        with self._changed:
            slot.size_bytes = 0
            while self._held_bytes() + need_bytes > self.budget_bytes:
                spared_s = time.monotonic() - self._preload_spares_s if slot.is_preload else math.inf
                enough_drains = self._held_bytes() - self._draining_bytes() + need_bytes <= self.budget_bytes
                if not enough_drains and (
                    self._evict_one("budget", True, spared_s) or self._evict_one("budget", False, spared_s)
                ):
                    continue
                if slot.is_preload and not enough_drains and time.monotonic() < give_up_s:
                    self._changed.wait(_LOOK_AGAIN_S)
                    continue
                if slot.is_preload and not enough_drains:
                    raise NoRoomToPreload(f"scene {slot.scene} would take the place of what frames use now")
                if not self._changed.wait(self._patience_s):
                    raise OverBudget(
                        f"scene {slot.scene} takes {need_bytes} bytes; of the pod's {self.budget_bytes} "
                        f"{self._held_bytes()} are in use by frames and other loads"
                    )
            slot.size_bytes = need_bytes

    def _held_bytes(self) -> int:
        return sum(slot.size_bytes for slot in self._slots.values()) + self._draining_bytes()

    def _evict_one(self, cause: Cause, unpinned: bool, spared_s: float = math.inf) -> bool:
        """Evict one that no frame used since `spared_s`; False where there is none."""

        def may_go(scene: SceneId) -> bool:
            slot = self._slots[scene]
            return not (unpinned and slot.pins) and slot.used_s < spared_s

        scene = self._order.next_to_go(may_go)
        if scene is not None:
            self._unlink(self._slots[scene], cause)
        return scene is not None

    def _unlink(self, slot: _Slot[Value], cause: Cause) -> None:
        del self._slots[slot.scene]
        self._order.went(slot.scene)
        slot.unlinked = True
        if slot.pins:
            self._draining.append(slot)
        else:
            slot.value = None
        self._watcher.evicted(slot.scene, cause)
        self._tell()

    def _unpin(self, slot: _Slot[Value]) -> None:
        with self._changed:
            slot.pins -= 1
            if slot.unlinked and not slot.pins and slot in self._draining:
                self._draining.remove(slot)
                slot.value = None
                self._tell()

    def _tell(self) -> None:
        self._watcher.changed(self._resident(), self._draining_bytes())
        self._changed.notify_all()
