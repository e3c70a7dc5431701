"""What is resident in a pod's memory: bounded in bytes, pinned while in use, one load a scene, least recently used out.

Dropping a scene unlinks it at once; its bytes count as draining until the last frame that uses it ends.
No scene is thrashed for one that can never fit: that one is refused. A load that failed is not tried again for a
few seconds: everybody who asks meanwhile gets the same error at once.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Generic, Literal, Protocol, TypeVar

from fleet.scene import SceneId

Value = TypeVar("Value")
Loaded = TypeVar("Loaded", covariant=True)
Result = Literal["hit", "wait", "load"]
State = Literal["unknown", "loading", "resident", "failed"]
Cause = Literal["budget", "drop", "memory"]


class OverBudget(Exception):
    """A scene that the pod's memory budget cannot hold (now or ever)."""


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
    unlinked: bool = False


@dataclass(frozen=True, slots=True)
class _Failure:
    error: Exception
    until_s: float  # of the cache's clock; then the next ask tries again


@dataclass(frozen=True, slots=True)
class Pin(Generic[Value]):
    """A scene in use."""

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
    ) -> None:
        """`patience_s`: how long a load waits for bytes that others use; `retry_after_s`: how long a failure stands."""
        if budget_bytes <= 0:
            raise ValueError(f"budget_bytes is {budget_bytes}, expected more than 0")
        self.budget_bytes = budget_bytes
        self._load = load
        self._watcher = watcher
        self._patience_s = patience_s
        self._retry_after_s = retry_after_s
        self._changed = threading.Condition()
        self._slots: OrderedDict[SceneId, _Slot[Value]] = OrderedDict()  # least recently used first
        self._draining: list[_Slot[Value]] = []
        self._failures: dict[SceneId, _Failure] = {}

    @contextlib.contextmanager
    def pinned(self, scene: SceneId) -> Iterator[Pin[Value]]:
        """Hold a scene for one use, loading it if need be; raises what the load raised."""
        slot, result = self._claim(scene)
        try:
            if result == "load":
                self._fill(slot)
            slot.ready.wait()
            if slot.error is not None:
                raise slot.error
            yield Pin(slot.value, result, slot.size_bytes)  # type: ignore[arg-type]
        finally:
            self._unpin(slot)

    def warm(self, scene: SceneId) -> tuple[State, str]:
        """Start loading a scene in a thread of its own; answers at once with its state and, failed, why."""
        state, message = self.state(scene)
        if state != "unknown":
            return state, message

        def load() -> None:
            with contextlib.suppress(Exception), self.pinned(scene):  # the failure is kept for `state`
                pass

        threading.Thread(target=load, name=f"warm-{scene}", daemon=True).start()
        return "loading", ""

    def state(self, scene: SceneId) -> tuple[State, str]:
        """Where a scene stands; of a failed one also why."""
        with self._changed:
            slot = self._slots.get(scene)
            if slot is not None and slot.error is None:
                return ("resident" if slot.ready.is_set() else "loading"), ""
            failure = self._failure(scene)
            return ("failed", str(failure) or type(failure).__name__) if failure is not None else ("unknown", "")

    def drop(self, scene: SceneId) -> bool:
        """Forget a scene; False where it is not resident. Frames that use it end undisturbed."""
        with self._changed:
            self._failures.pop(scene, None)
            slot = self._slots.get(scene)
            if slot is None or not slot.ready.is_set():
                return False
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

    def _failure(self, scene: SceneId) -> Exception | None:
        failure = self._failures.get(scene)
        if failure is not None and time.monotonic() >= failure.until_s:
            del self._failures[scene]
            return None
        return failure.error if failure is not None else None

    def _claim(self, scene: SceneId) -> tuple[_Slot[Value], Result]:
        with self._changed:
            slot = self._slots.get(scene)
            result: Result = "load"
            if slot is None:
                failure = self._failure(scene)
                if failure is not None:
                    raise failure
                slot = self._slots[scene] = _Slot(scene)
            else:
                result = "hit" if slot.ready.is_set() else "wait"
            self._slots.move_to_end(scene)
            slot.pins += 1
            self._watcher.looked_up(hit=result == "hit")
            return slot, result

    def _fill(self, slot: _Slot[Value]) -> None:
        try:
            try:
                slot.value = self._load(slot.scene, lambda size: self._reserve(slot, size))
            except MemoryError:
                if not self._evict_one("memory"):
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
            self._tell()

    def _fail(self, slot: _Slot[Value], error: Exception) -> None:
        with self._changed:
            slot.error, slot.size_bytes = error, 0
            self._failures[slot.scene] = _Failure(error, time.monotonic() + self._retry_after_s)
            if self._slots.get(slot.scene) is slot:
                del self._slots[slot.scene]
            slot.ready.set()
            self._tell()

    def _reserve(self, slot: _Slot[Value], need_bytes: int) -> None:
        """Make room for a load, evicting what is used least; raises OverBudget."""
        if need_bytes > self.budget_bytes:
            raise OverBudget(f"scene {slot.scene} takes {need_bytes} bytes, the pod's budget is {self.budget_bytes}")
        with self._changed:
            slot.size_bytes = 0
            while self._held_bytes() + need_bytes > self.budget_bytes:
                enough_drains = self._held_bytes() - self._draining_bytes() + need_bytes <= self.budget_bytes
                if not enough_drains and (self._evict_oldest("budget", True) or self._evict_oldest("budget", False)):
                    continue
                if not self._changed.wait(self._patience_s):
                    raise OverBudget(
                        f"scene {slot.scene} takes {need_bytes} bytes; of the pod's {self.budget_bytes} "
                        f"{self._held_bytes()} are in use by frames and other loads"
                    )
            slot.size_bytes = need_bytes

    def _held_bytes(self) -> int:
        return sum(slot.size_bytes for slot in self._slots.values()) + self._draining_bytes()

    def _evict_one(self, cause: Cause) -> bool:
        with self._changed:
            return self._evict_oldest(cause, unpinned=True)

    def _evict_oldest(self, cause: Cause, unpinned: bool) -> bool:
        for slot in self._slots.values():
            if slot.ready.is_set() and not (unpinned and slot.pins):
                self._unlink(slot, cause)
                return True
        return False

    def _unlink(self, slot: _Slot[Value], cause: Cause) -> None:
        del self._slots[slot.scene]
        slot.unlinked = True
        if slot.pins:
            self._draining.append(slot)
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
