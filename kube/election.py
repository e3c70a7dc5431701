"""Who leads, by a Lease and our own monotonic clock: a core without any clock, socket or thread.

Safety rests on three facts. A leader may write only until `renew_s` after it *sent* its last renewal that succeeded.
Another takes over only `lease_s` after it *saw* the record change, which is later than it was sent. And every write of
the record names the version that it read, so of two writers one is refused. `renew_s` below `lease_s` leaves room for
clocks that run at different speeds. No two clocks are ever compared.
"""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class Terms:
    """Seconds: others wait `lease_s`, a leader works `renew_s` on one renewal, and everybody looks each `retry_s`."""

    lease_s: float = 15.0
    renew_s: float = 10.0
    retry_s: float = 2.0

    def __post_init__(self) -> None:
        if not 0.0 < self.retry_s < self.renew_s < self.lease_s:
            raise ValueError(f"lease {self.lease_s} > renew {self.renew_s} > retry {self.retry_s} > 0 must hold")


@dataclass(frozen=True, slots=True)
class LeaseRecord:
    """What the Lease says; `transitions` rises with every change of holder, `version` with every write."""

    holder: str
    lease_s: float
    transitions: int
    version: str = ""  # empty: there is no Lease yet


@dataclass(frozen=True, slots=True)
class Leadership:
    """The right to write until `until_s` of our monotonic clock; `token` is larger than any earlier leader's."""

    token: int
    until_s: float


NOBODY = LeaseRecord("", 0.0, -1)  # the first holder makes transition 0


@dataclass(slots=True)
class Election:
    """One candidate. `identity` is of this process alone: a second start must be another."""

    identity: str
    terms: Terms
    leadership: Leadership | None = None
    _seen: LeaseRecord | None = None
    _changed_s: float = 0.0  # when we saw `_seen` for the first time

    def known(self) -> LeaseRecord | None:
        """The record to renew without reading it again: ours, as the last write left it."""
        return self._seen if self._seen is not None and self._seen.holder == self.identity else None

    def saw(self, record: LeaseRecord, now_s: float) -> None:
        """The Lease was read; `record` is NOBODY where there is none, `now_s` is after the answer came."""
        if self._seen is None or self._seen.version != record.version:
            self._seen, self._changed_s = record, now_s
        if record.holder != self.identity:
            self.leadership = None

    def attempt(self, now_s: float) -> LeaseRecord | None:
        """The record to write, over the version that it names; None where another one holds the Lease."""
        seen = self._seen
        if seen is None:
            return None
        if seen.holder == self.identity:
            return replace(seen, lease_s=self.terms.lease_s)
        if seen.holder and now_s < self._changed_s + max(seen.lease_s, self.terms.lease_s):
            return None
        return LeaseRecord(self.identity, self.terms.lease_s, seen.transitions + 1, seen.version)

    def wrote(self, record: LeaseRecord, sent_s: float) -> None:
        """Our write succeeded: `record` is as the server keeps it, `sent_s` is before it was sent."""
        self._seen, self._changed_s = record, sent_s
        self.leadership = Leadership(record.transitions, sent_s + self.terms.renew_s)

    def lost(self) -> None:
        """Our write was refused, as somebody wrote before: read again, and write nothing until then."""
        self.leadership = None
        self._seen = None

    def unsure(self) -> None:
        """Our write brought no answer, so it may have been done: read again. The right to write runs out by itself."""
        self._seen = None

    def release(self) -> LeaseRecord | None:
        """Give up at once; the record that tells the others, where we hold the Lease."""
        known, self.leadership, self._seen = self.known(), None, None
        return replace(known, holder="", lease_s=1.0) if known is not None else None

    def may_write(self, now_s: float, for_s: float = 0.0) -> Leadership | None:
        """Our leadership, where a write that takes `for_s` from now would end within it."""
        held = self.leadership
        return held if held is not None and now_s + for_s < held.until_s else None
