"""Decisions in flight: a pod that prioritize has just sent somewhere, until its binding is seen.

kube-scheduler tells an extender neither what it chose nor that it gave up, so a reservation is soft: keyed by the
pod's UID (a second decision replaces the first), confirmed or released by the pod's own events, and gone after its
time to live. A clock is passed in.
"""

from __future__ import annotations

from collections.abc import KeysView
from dataclasses import dataclass

from fleet.snapshot import Pod


@dataclass(frozen=True, slots=True)
class Reservation:
    """One pod's place on one node until `expires_s`."""

    pod: Pod
    node: str
    expires_s: float


class Reservations:
    """Reservations by pod UID; every call that changes them returns the nodes whose occupancy it changed."""

    def __init__(self, time_to_live_s: float = 30.0) -> None:
        self.time_to_live_s = time_to_live_s
        self.expired = 0  # how many ran out without a word about their pod
        self._by_uid: dict[str, Reservation] = {}
        self._by_node: dict[str, dict[str, Reservation]] = {}

    def __len__(self) -> int:
        return len(self._by_uid)

    @property
    def uids(self) -> KeysView[str]:
        """Of the pods that a place is held for."""
        return self._by_uid.keys()

    def get(self, uid: str) -> Reservation | None:
        return self._by_uid.get(uid)

    def on(self, node: str) -> list[Pod]:
        """The pods that are on their way to `node`."""
        return [reservation.pod for reservation in self._by_node.get(node, {}).values()]

    def reserve(self, pod: Pod, node: str, now_s: float) -> set[str]:
        """Hold a place for `pod` on `node`; the same pod again moves its reservation and renews its time."""
        changed = self.release(pod.uid) | {node}
        self._add(Reservation(pod, node, now_s + self.time_to_live_s))
        return changed

    def release(self, uid: str) -> set[str]:
        """Forget the pod: it was bound (there or elsewhere), finished or deleted."""
        reservation = self._by_uid.pop(uid, None)
        if reservation is None:
            return set()
        of_node = self._by_node[reservation.node]
        del of_node[uid]
        if not of_node:
            del self._by_node[reservation.node]
        return {reservation.node}

    def release_node(self, node: str) -> set[str]:
        """Forget the pods that are on their way to a node that is gone."""
        for uid in list(self._by_node.get(node, {})):
            self.release(uid)
        return {node}

    def due(self, now_s: float) -> bool:
        """Whether any has run out."""
        return bool(self._by_uid) and next(iter(self._by_uid.values())).expires_s <= now_s

    def expire(self, now_s: float) -> set[str]:
        """Drop what has run out and count it."""
        # A dict keeps insertion order and `reserve` moves a renewed pod to the end, so the oldest come first.
        changed: set[str] = set()
        while self._by_uid:
            oldest = next(iter(self._by_uid.values()))
            if oldest.expires_s > now_s:
                break
            changed |= self.release(oldest.pod.uid)
            self.expired += 1
        return changed

    def _add(self, reservation: Reservation) -> None:
        self._by_uid[reservation.pod.uid] = reservation
        self._by_node.setdefault(reservation.node, {})[reservation.pod.uid] = reservation
