"""Scenes for frames: resident in a pod's memory within its bytes (renderer.scene_memory), pinned while in use.

Each scene is loaded once, whoever asks. Frames come thirty a second where somebody looks: uses of a scene that lie less
than ten seconds apart are one visit.

A load that failed is not tried again for a few seconds: everybody who asks meanwhile gets the same error at once.

A preload (a scene that nobody waits for yet) is of low priority: one at a time, begun only while no frame waits for a
load, overtaken by a frame that asks for its scene, and never in place of what frames have just used.
"""

from __future__ import annotations

import contextlib
import math
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Generic, Literal, Protocol, TypeVar

from fleet.scene import SceneId
from renderer.scene_memory import CacheWatcher, NoRoomToPreload, SceneMemory, Slot

Value = TypeVar("Value")
Loaded = TypeVar("Loaded", covariant=True)
Result = Literal["hit", "wait", "load"]
State = Literal["unknown", "loading", "resident", "failed"]
Priority = Literal["demand", "preload"]


class StillLoading(Exception):
    """A scene on its way for which nobody more can wait, or this asker not longer; ask again, or another pod."""


class SceneLoader(Protocol[Loaded]):
    """Brings a scene into memory; slow, called without the cache's lock."""

    def __call__(self, scene: SceneId, reserve: Callable[[int], None]) -> Loaded:
        """Load a scene; call `reserve` with its exact bytes before anything of that size is allocated."""
        ...


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
        self._memory: SceneMemory[Value] = SceneMemory(budget_bytes, watcher, patience_s, preload_spares_s)
        self._retry_after_s = retry_after_s
        self._max_waiters = max_waiters
        self._visit_s = visit_s
        self._frame_waits_s = frame_waits_s
        self._changed = self._memory.changed
        self._slots = self._memory.slots
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
            self._memory.unpin(slot)

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
                self._memory.unpin(slot)

    def _preload(self, scene: SceneId) -> None:
        with self._changed:
            while scene in self._preloads and (self._demand_loads or self._preloading):
                self._changed.wait()
            if not self._unqueue(scene) or scene in self._slots:
                return  # dropped, or somebody was quicker
            self._preloading = True
            slot = self._slots[scene] = Slot(scene, is_preload=True, pins=1)
        try:
            self._fill(slot)
        finally:
            with self._changed:
                self._preloading = False
                self._changed.notify_all()
            self._memory.unpin(slot)

    def _visit(self, slot: Slot[Value]) -> None:
        now_s, before_s = time.monotonic(), slot.used_s
        slot.used_s = now_s
        if now_s - before_s >= self._visit_s and before_s != -math.inf:
            with self._changed:
                self._memory.order.visited(slot.scene)

    def _wait_for(self, slot: Slot[Value], wait_s: float | None) -> None:
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
            self._memory.unlink(slot, "drop")
            return True

    def resident(self) -> dict[SceneId, int]:
        """Bytes by scene, least recently used first."""
        with self._changed:
            return self._memory.resident()

    def draining_bytes(self) -> int:
        """Bytes of scenes that were evicted while a frame used them."""
        with self._changed:
            return self._memory.draining_bytes()

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

    def _claim(self, scene: SceneId, for_frame: bool) -> tuple[Slot[Value], Result]:
        with self._changed:
            self._unqueue(scene)
            slot = self._slots.get(scene)
            result: Result = "load"
            if slot is None:
                failure = self._failure(scene)
                if failure is not None:
                    raise failure
                slot = self._slots[scene] = Slot(scene)
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

    def _fill_apart(self, slot: Slot[Value]) -> None:
        """Load in a thread of its own, which goes on when the frame that asked waits no longer."""

        def fill() -> None:
            try:
                self._fill(slot)
            finally:
                self._memory.unpin(slot)

        with self._changed:
            slot.pins += 1
        threading.Thread(target=fill, name=f"load-{slot.scene}", daemon=True).start()

    def _fill(self, slot: Slot[Value]) -> None:
        demanded = not slot.is_preload
        with self._changed:
            self._demand_loads += demanded
        try:
            self._load_into(slot)
        finally:
            with self._changed:
                self._demand_loads -= demanded
                self._changed.notify_all()

    def _load_into(self, slot: Slot[Value]) -> None:
        try:
            try:
                slot.value = self._load(slot.scene, lambda size: self._memory.reserve(slot, size))
            except MemoryError:
                with self._changed:
                    evicted = self._memory.evict_one("memory", unpinned=True)
                if not evicted:
                    raise
                slot.value = self._load(slot.scene, lambda size: self._memory.reserve(slot, size))
        except Exception as error:
            self._fail(slot, error)
            return
        except BaseException as error:
            self._fail(slot, RuntimeError(f"load of {slot.scene} was interrupted: {error!r}"))
            raise
        with self._changed:
            self._failures.pop(slot.scene, None)
            slot.ready.set()
            self._memory.order.came(slot.scene, slot.size_bytes)
            self._memory.tell()

    def _fail(self, slot: Slot[Value], error: Exception) -> None:
        with self._changed:
            slot.error, slot.size_bytes = error, 0
            if not isinstance(error, NoRoomToPreload):  # a frame may have it all the same
                self._failures[slot.scene] = _Failure(error, time.monotonic() + self._retry_after_s)
            if self._slots.get(slot.scene) is slot:
                del self._slots[slot.scene]
            slot.ready.set()
            self._memory.tell()
