"""What a scene agent does behind its answers: fetches in the queue's order, stops those that are overtaken."""

from __future__ import annotations

import contextlib
import math
import threading
import time
from collections import OrderedDict
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import structlog

from fleet.scene import SceneId
from renderer.agent_metrics import AgentMetrics
from renderer.ask_queue import PRELOAD_PRIORITY, Ask, AskQueue
from renderer.catalogue import CatalogueEntry, LiveCatalogue, UnknownScene
from renderer.credentials import CredentialError, scrubbed
from renderer.fetch_progress import downloads
from renderer.fetch_terms import Stopped, Terms
from renderer.kept_asks import KeptAsks
from renderer.scene_store import FetchFailed, SceneStore
from renderer.splats import SceneFileError
from renderer.store_space import StoreFull

log = structlog.get_logger()

_WATCH_S = 0.2
_KEPT_ENDS = 1000


@dataclass(frozen=True, slots=True)
class AskState:
    """What became of an ask. `reason` says why it failed or why it is late."""

    id: str
    state: str  # queued | fetching | stored | failed | dropped
    priority: int = 0
    deadline_in_s: float | None = None
    done_bytes: int = 0
    total_bytes: int = 0
    reason: str = ""


class AgentWork:
    """A node's store filled by asks. Methods may be called from any thread and answer at once."""

    def __init__(
        self, store: SceneStore, catalogue: LiveCatalogue, metrics: AgentMetrics, slots: int, fetch_timeout_s: float
    ) -> None:
        """At most `slots` fetches at once; one that takes longer than `fetch_timeout_s` is given up."""
        self._store, self._catalogue, self._metrics = store, catalogue, metrics
        self._fetch_timeout_s = fetch_timeout_s
        self._queue = AskQueue(slots)
        self._ends: OrderedDict[SceneId, AskState] = OrderedDict()
        self._changed = threading.Condition()
        self._closing = False
        self._kept = KeptAsks(store.layout.root / "asks.json")
        for ask in self._kept.load():
            if ask.scene in catalogue.current().entries:
                self._queue.put(ask)
        self._fetchers = ThreadPoolExecutor(slots, thread_name_prefix="fetch")
        self._thread = threading.Thread(target=self._dispatch, name="dispatch", daemon=True)
        self._thread.start()

    def ask(self, scene: str, priority: int, deadline_in_s: float) -> AskState:
        """Have a scene on disk in so many seconds; asking again makes it more urgent, never less.

        Raises UnknownScene and SceneIdError.
        """
        entry = self._catalogue.current().get(scene)
        now_s = time.monotonic()
        with self._changed:
            if entry.id not in self._queue.running and self._store.touch(entry):
                self._metrics.deadlines.labels("met").inc()
                return AskState(entry.id, "stored")
            self._ends.pop(entry.id, None)
            self._queue.put(Ask(entry.id, priority, now_s + deadline_in_s, now_s))
            self._changed.notify()
            return self._state(entry.id, now_s, {})

    def preload(self, scene: SceneId) -> None:
        """Have a scene on disk some time, if there is room that nobody uses; every other ask goes first."""
        with self._changed:
            if scene not in self._queue.running and scene not in self._queue.waiting:
                self._metrics.preloads.inc()
                self._queue.put(Ask(scene, PRELOAD_PRIORITY, math.inf, time.monotonic()))
                self._changed.notify()

    def is_idle(self) -> bool:
        """Whether nothing is asked for."""
        with self._changed:
            return not self._queue.running and not self._queue.waiting

    def failed(self) -> list[SceneId]:
        """Scenes whose last fetch failed."""
        with self._changed:
            return [SceneId(end.id) for end in self._ends.values() if end.state == "failed"]

    def drop(self, scene: SceneId) -> bool:
        """Forget an ask and evict the scene; False where a reader holds it now."""
        with self._changed:
            if self._queue.drop(scene):
                self._end(AskState(scene, "dropped"))
                self._changed.notify()
        return self._store.evict(scene) or all(record.id != scene for record in self._store.records())

    def states(self) -> list[AskState]:
        """Every ask in the queue's order, then what became of the last thousand others."""
        progress = downloads(self._store.layout)
        with self._changed:
            now_s = time.monotonic()
            asks = sorted(
                (*self._queue.running.values(), *self._queue.waiting.values()),
                key=lambda ask: (ask.scene not in self._queue.running, ask.rank),
            )
            ended = [end for end in self._ends.values() if all(ask.scene != end.id for ask in asks)]
            return [self._state(ask.scene, now_s, progress) for ask in asks] + ended

    def close(self) -> None:
        """Stop what runs (it is resumed by the next start) and wait for it."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join()
        self._fetchers.shutdown(wait=True, cancel_futures=True)

    def _state(self, scene: SceneId, now_s: float, progress: Mapping[str, tuple[int, int]]) -> AskState:
        is_running = scene in self._queue.running
        ask = self._queue.running[scene] if is_running else self._queue.waiting[scene]
        left_s = None if ask.is_preload else ask.deadline_s - now_s
        done_bytes, total_bytes = progress.get(scene, (0, 0))
        state = "fetching" if is_running else "queued"
        if left_s is None:
            return AskState(scene, state, ask.priority, None, done_bytes, total_bytes, "preload")
        reason = "" if left_s >= 0 else f"the deadline passed {-left_s:.1f} s ago"
        return AskState(scene, state, ask.priority, round(left_s, 3), done_bytes, total_bytes, reason)

    def _end(self, state: AskState) -> None:
        self._ends[SceneId(state.id)] = state
        self._ends.move_to_end(SceneId(state.id))
        while len(self._ends) > _KEPT_ENDS:
            self._ends.popitem(last=False)

    def _dispatch(self) -> None:
        with self._changed:
            while not self._closing:
                while (ask := self._queue.take()) is not None:
                    self._fetchers.submit(self._fetch, ask)
                self._queue.overtaken()
                for ask in self._queue.late(time.monotonic()):
                    self._metrics.deadlines.labels("missed").inc()
                    state = self._state(ask.scene, time.monotonic(), {})
                    log.warning("deadline missed", scene=ask.scene, state=state.state, reason=state.reason)
                self._metrics.asks.labels("queued").set(len(self._queue.waiting))
                self._metrics.asks.labels("fetching").set(len(self._queue.running))
                self._keep()
                self._changed.wait(_WATCH_S)

    def _keep(self) -> None:
        """Write the open asks down, so that the next start goes on with them; the lock is held."""
        asks = (*self._queue.running.values(), *self._queue.waiting.values())
        with contextlib.suppress(OSError):  # a full disk is told by the fetches
            self._kept.keep(ask for ask in asks if not ask.is_preload)

    def _fetch(self, ask: Ask) -> None:
        reason = ""
        try:
            entry = self._catalogue.current().get(ask.scene)
            self._ensure(entry, may_evict=not ask.is_preload)
            outcome = "stored"
        except Stopped:
            outcome = "paused"
        except (FetchFailed, StoreFull, SceneFileError, UnknownScene, CredentialError, OSError, MemoryError) as error:
            outcome, reason = "failed", scrubbed(str(error) or type(error).__name__)
        except Exception as error:  # a slot that dies silently would stall the queue
            log.exception("fetch broke", scene=ask.scene)
            outcome, reason = "failed", scrubbed(f"{type(error).__name__}: {error}")
        with self._changed:
            self._settle(ask, outcome, reason)
            self._changed.notify()

    def _ensure(self, entry: CatalogueEntry, may_evict: bool) -> None:
        def stopped() -> bool:
            return self._closing or self._queue.is_to_pause(entry.id)

        end_s = time.monotonic() + self._fetch_timeout_s
        self._store.ensure(entry, terms=Terms(end_s=end_s, stopped=stopped, may_evict=may_evict))

    def _settle(self, ask: Ask, outcome: str, reason: str) -> None:
        """Write down how a fetch ended; the lock is held."""
        scene, now_s = ask.scene, time.monotonic()
        if outcome == "paused":
            self._queue.paused(scene)
            self._metrics.fetches.labels("paused" if scene in self._queue.waiting else "dropped").inc()
            return
        ask = self._queue.finished(scene)
        self._metrics.fetches.labels(outcome).inc()
        left_s = None if ask.is_preload else round(ask.deadline_s - now_s, 3)
        self._end(AskState(scene, outcome, ask.priority, left_s, reason=reason))
        if ask.is_preload:
            return
        if outcome == "stored":
            self._metrics.fetch_s.observe(now_s - ask.asked_s)
            if now_s <= ask.deadline_s:
                self._metrics.deadlines.labels("met").inc()
        else:
            log.warning("fetch failed", scene=scene, reason=reason)
            if now_s <= ask.deadline_s:  # later it was counted when it passed
                self._metrics.deadlines.labels("missed").inc()
