"""The elector: one thread that keeps a Lease, and the question that every write asks first."""

from __future__ import annotations

import random
import socket
import threading
import time
import uuid
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import msgspec
import structlog

from kube.connection import Connection
from kube.election import NOBODY, Election, Leadership, LeaseRecord, Terms
from kube.errors import KubeError, Refused
from kube.objects import Anything, Resource

LEASES = Resource("coordination.k8s.io/v1", "leases", Anything)
USUAL = Terms()
log = structlog.get_logger()


class NotLeading(KubeError):
    """Another one leads, or our right to write ends too soon."""


def own_identity() -> str:
    """A name of this process alone, readable in `kubectl get lease`."""
    return f"{socket.gethostname()}_{uuid.uuid4()}"


class Elector:
    """Campaigns for the Lease `namespace/name` from `start` to `stop`; `stop` releases it, so that the next leads soon.

    `on_change` is called from the elector's thread with the leadership gained, or with None when it ended. It is a
    hint: what decides is `guard` before each write, because a thread may be late and a deadline is not.
    """

    def __init__(
        self,
        connection: Connection,
        namespace: str,
        name: str,
        terms: Terms = USUAL,
        on_change: Callable[[Leadership | None], None] | None = None,
    ) -> None:
        self.identity = own_identity()
        self.failures = 0
        self._connection = connection
        self._namespace, self._name = namespace, name
        self._terms = terms
        self._on_change = on_change
        self._election = Election(self.identity, terms)
        self._told: int | None = None
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"elector-{name}", daemon=True)

    def start(self) -> Elector:
        self._thread.start()
        return self

    def stop(self, deadline_s: float = 3.0) -> None:
        """Write nothing more, and release the Lease where we hold it."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join(deadline_s)
        record = self._election.release()
        self._tell()
        if record is not None:
            try:
                self._write(record, deadline_s)
            except KubeError as error:
                log.warning("lease not released, it expires", lease=self._name, error=str(error))

    @property
    def leads(self) -> bool:
        return self._election.may_write(time.monotonic()) is not None

    def guard(self, for_s: float) -> Leadership:
        """The leadership under which a write of at most `for_s` may begin now; raises NotLeading.

        Its token belongs on what is written, and the write should name the version that it changes: a request that
        the server held back is then refused when a later leader wrote before.
        """
        held = self._election.may_write(time.monotonic(), for_s)
        if held is None:
            raise NotLeading(
                f"lease {self._namespace}/{self._name}: {self.identity} does not lead for {for_s:g} s more"
            )
        return held

    def _run(self) -> None:
        while not self._stopping.is_set():
            self._round()
            self._tell()
            wait_s = self._terms.retry_s * (1.0 + 0.2 * random.random())
            held = self._election.leadership
            left_s = held.until_s - time.monotonic() if held is not None else 0.0
            if left_s > 0.0:  # wake when it ends, to say so; one that ended long ago is no reason to hurry
                wait_s = min(wait_s, left_s + 0.01)
            self._stopping.wait(wait_s)

    def _round(self) -> None:
        """Read where needed, write where allowed; any error is a renewal that failed."""
        election, call_s = self._election, self._terms.renew_s / 3.0
        try:
            if election.known() is None:
                election.saw(self._read(call_s), time.monotonic())
            record = election.attempt(time.monotonic())
            if record is None or self._stopping.is_set():
                return
            sent_s = time.monotonic()
            election.wrote(self._write(record, call_s), sent_s)
        except Refused as error:
            election.lost()
            if not error.conflict:
                self._failed(error)
        except (KubeError, msgspec.MsgspecError) as error:
            election.unsure()
            self._failed(error)

    def _failed(self, error: Exception) -> None:
        self.failures += 1
        log.warning("lease not renewed", lease=self._name, error=str(error))

    def _tell(self) -> None:
        held = self._election.may_write(time.monotonic())
        token = held.token if held is not None else None
        if token == self._told:
            return
        self._told = token
        log.info("leads" if held else "does not lead", lease=self._name, identity=self.identity, token=token)
        if self._on_change is not None:
            try:
                self._on_change(held)
            except Exception as error:
                log.exception("callback failed", lease=self._name, error=str(error))

    def _read(self, deadline_s: float) -> LeaseRecord:
        try:
            body = self._connection.get(LEASES.path(self._namespace, self._name), deadline_s=deadline_s)
        except Refused as error:
            if error.absent:
                return NOBODY
            raise
        return _record(body)

    def _write(self, record: LeaseRecord, deadline_s: float) -> LeaseRecord:
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")  # for people; nobody decides by it
        metadata: dict[str, Any] = {"name": self._name, "namespace": self._namespace}
        spec = {
            "holderIdentity": record.holder,
            "leaseDurationSeconds": max(1, round(record.lease_s)),
            "leaseTransitions": record.transitions,
            "renewTime": now,
        }
        method, name = "POST", None
        if record.version:
            method, name = "PUT", self._name
            metadata["resourceVersion"] = record.version
        document = {"apiVersion": LEASES.group_version, "kind": "Lease", "metadata": metadata, "spec": spec}
        path = LEASES.path(self._namespace, name)
        return _record(self._connection.request(method, path, msgspec.json.encode(document), deadline_s=deadline_s))


def _record(body: bytes) -> LeaseRecord:
    """The record in a Lease; what is missing in it counts as zero, as others write it."""
    lease = msgspec.json.decode(body, type=Anything)
    spec = lease.spec or {}
    return LeaseRecord(
        str(spec.get("holderIdentity") or ""),
        float(spec.get("leaseDurationSeconds") or 0.0),
        int(spec.get("leaseTransitions") or 0),
        lease.metadata.resource_version,
    )
