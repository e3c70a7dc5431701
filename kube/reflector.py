"""One resource of the API server as a store that follows it: list, then watch, and list again when told to."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

import msgspec
import structlog

from kube.backoff import Backoff
from kube.connection import Connection, Stream
from kube.errors import KubeError, Refused
from kube.objects import Object, Resource
from kube.watch_store import Change, Store

T = TypeVar("T", bound=Object)
log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Scope:
    """Which objects: all namespaces without one, selectors in the API's text form."""

    namespace: str | None = None
    label_selector: str = ""
    field_selector: str = ""

    def query(self) -> dict[str, str]:
        chosen = {"labelSelector": self.label_selector, "fieldSelector": self.field_selector}
        return {key: value for key, value in chosen.items() if value}


@dataclass(frozen=True, slots=True)
class Timings:
    """`watch_s` is asked of the server; a watch that is silent for `watch_s` + `slack_s` is dead."""

    page: int = 500  # objects in one answer to a list
    list_deadline_s: float = 30.0  # of one page
    watch_s: float = 45.0
    slack_s: float = 5.0
    backoff_first_s: float = 0.5
    backoff_most_s: float = 30.0
    short_watch_s: float = 1.0  # a watch that ends sooner without a word counts as failed
    gather_s: float = 0.0  # events of so long are read at once: later by as much, and cheaper where there are many


@dataclass(slots=True)
class Counts:
    """What happened so far; only ever grows."""

    lists: int = 0
    watches: int = 0
    events: int = 0
    skipped: int = 0  # objects that could not be read
    failures: int = 0  # lists and watches that ended in an error
    expired: int = 0  # watches that the server forgot (410)


class _Metadata(msgspec.Struct, rename="camel"):
    resource_version: str = ""
    continue_: str = msgspec.field(name="continue", default="")


class _List(msgspec.Struct):
    metadata: _Metadata
    items: list[msgspec.Raw] | None = None


class _Event(msgspec.Struct):
    type: str
    object: msgspec.Raw


class _Expired(Exception):
    """The resource version is too old: list again."""


class Reflector(Generic[T]):
    """Follows `resource` in a thread of its own from `start` to `stop`.

    `on_change` is called from that thread, in order, once per change, also for those that a new list shows; what it
    raises is logged and changes nothing. Readers may call `items`, `get` and the properties from any thread.
    """

    def __init__(
        self,
        connection: Connection,
        resource: Resource[T],
        scope: Scope = Scope(),
        on_change: Callable[[Change[T]], None] | None = None,
        timings: Timings = Timings(),
    ) -> None:
        self.resource = resource
        self.counts = Counts()
        self.last_error = ""
        self._connection = connection
        self._path = resource.path(scope.namespace)
        self._scope = scope
        self._on_change = on_change
        self._timings = timings
        self._store: Store[T] = Store(resource.type)
        self._synced = threading.Event()
        self._stopping = threading.Event()
        self._heard_s: float | None = None
        self._version = ""  # to watch from; empty: list first
        self._stream: Stream | None = None
        self._backoff = Backoff(random.random, timings.backoff_first_s, timings.backoff_most_s)
        self._thread = threading.Thread(target=self._run, name=f"reflector-{resource.plural}", daemon=True)

    def start(self) -> Reflector[T]:
        self._thread.start()
        return self

    def stop(self, deadline_s: float = 5.0) -> None:
        """End the watch and wait for the thread; a list under way may outlive the deadline, and does nothing then."""
        self._stopping.set()
        stream = self._stream
        if stream is not None:
            stream.abort()
        if self._thread.is_alive():
            self._thread.join(deadline_s)

    @property
    def has_synced(self) -> bool:
        """Whether the first list is in the store."""
        return self._synced.is_set()

    def wait_synced(self, deadline_s: float) -> bool:
        return self._synced.wait(deadline_s)

    @property
    def event_age_s(self) -> float | None:
        """Seconds since the server last said anything here, bookmarks too; None before the first list."""
        heard_s = self._heard_s
        return None if heard_s is None else time.monotonic() - heard_s

    @property
    def stale(self) -> bool:
        """Whether the server has been silent for longer than one watch may last."""
        age_s = self.event_age_s
        return age_s is None or age_s > 2.0 * (self._timings.watch_s + self._timings.slack_s)

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    def items(self) -> list[T]:
        """Every object as last seen."""
        return self._store.items()

    def get(self, name: str, namespace: str = "") -> T | None:
        return self._store.get(f"{namespace}/{name}" if namespace else name)

    def _run(self) -> None:
        while not self._stopping.is_set():
            wait_s = 0.0
            try:
                if not self._version:
                    self._list()
                if not self._stopping.is_set():
                    self._watch()
            except _Expired:
                self.counts.expired += 1
                self._version = ""
                wait_s = self._backoff.failed()
            except KubeError as error:
                wait_s = self._failed(error)
            except msgspec.MsgspecError as error:  # a list or an event that is no JSON: the server, not an object
                wait_s = self._failed(error)
            self._stopping.wait(wait_s)

    def _failed(self, error: Exception) -> float:
        """Count it; seconds to wait."""
        if self._stopping.is_set():
            return 0.0
        self.counts.failures += 1
        self.last_error = str(error)
        refused = error if isinstance(error, Refused) else None
        if refused is not None and refused.status == 410:
            self._version = ""
        wait_s = self._backoff.failed(refused.retry_after_s if refused is not None else None)
        log.warning("watch broken", resource=self.resource.plural, error=str(error), again_in_s=round(wait_s, 2))
        return wait_s

    def _list(self) -> None:
        """All pages into the store, and the resource version to watch from."""
        self.counts.lists += 1
        query = {**self._scope.query(), "limit": str(self._timings.page)}
        raws: list[msgspec.Raw] = []
        while True:
            body = self._connection.get(self._path, query, self._timings.list_deadline_s)
            page = msgspec.json.decode(body, type=_List)
            raws += page.items or ()
            if not page.metadata.continue_:
                break
            query["continue"] = page.metadata.continue_
        if self._stopping.is_set():
            return
        self._heard_s = time.monotonic()
        changes, skipped = self._store.replace([bytes(raw) for raw in raws])
        self.counts.skipped += skipped
        self._tell(changes)
        self._version = page.metadata.resource_version
        self._synced.set()

    def _watch(self) -> None:
        """Follow events until the server ends the watch; what was heard stays heard if it breaks."""
        self.counts.watches += 1
        watch_s = self._timings.watch_s * (0.8 + 0.4 * random.random())  # clients do not come back together
        query = {
            **self._scope.query(),
            "watch": "1",
            "allowWatchBookmarks": "true",
            "resourceVersion": self._version,
            "timeoutSeconds": str(max(1, round(watch_s))),
        }
        begun_s = time.monotonic()
        heard = self.counts.events
        with self._connection.stream(self._path, query, watch_s + self._timings.slack_s) as stream:
            self._stream = stream
            try:
                if self._stopping.is_set():  # told while the server was asked: nobody aborts this stream
                    return
                for line in stream.lines(self._timings.gather_s):
                    if self._stopping.is_set():
                        return
                    self._version = self._event(line) or self._version
                    self._backoff.succeeded()
            finally:
                self._stream = None
        if self.counts.events == heard and time.monotonic() - begun_s < self._timings.short_watch_s:
            self._stopping.wait(self._backoff.failed())
        else:
            self._backoff.succeeded()

    def _event(self, line: bytes) -> str:
        """One event into the store; the version that it carries, or nothing."""
        event = msgspec.json.decode(line, type=_Event)
        if event.type == "ERROR":
            error = msgspec.json.decode(event.object, type=_WatchError)
            if error.code == 410:
                raise _Expired
            raise Refused(error.code, error.reason, error.message)
        self._heard_s = time.monotonic()
        self.counts.events += 1
        applied = self._store.apply(event.type, bytes(event.object))
        self.counts.skipped += applied.skipped
        self._tell(applied.changes)
        return applied.version

    def _tell(self, changes: list[Change[T]]) -> None:
        if self._on_change is None:
            return
        for change in changes:
            try:
                self._on_change(change)
            except Exception as error:
                log.exception("callback failed", resource=self.resource.plural, error=str(error))


class _WatchError(msgspec.Struct):
    code: int = 500
    reason: str = ""
    message: str = ""
