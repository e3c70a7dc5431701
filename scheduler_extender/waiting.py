"""Pods that we refused on every node they were offered, and when to have them asked about again. No clock, no I/O.

kube-scheduler does not try such a pod again by a timer: it waits for an event of the cluster. What frees a place here
and is none to it (a digest, a claim, a reservation that ran out) must be made one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from fleet.snapshot import Pod

MOST_KINDS = 1000  # of pods; each remembers the nodes it was offered

Kind = tuple[object, ...]
Fits = Callable[[Pod, Sequence[str]], Sequence[bool]]


@dataclass(slots=True)
class _Refused:
    """Pods of one template: they fit alike, and a queue holds thousands of them."""

    pod: Pod
    names: Sequence[str]
    uids: set[str] = field(default_factory=set)


class Waiting:
    """Refused pods; the oldest kind goes where there are too many."""

    def __init__(self, most_kinds: int = MOST_KINDS) -> None:
        self._most_kinds = most_kinds
        self._refused: dict[Kind, _Refused] = {}
        self._kind_of: dict[str, Kind] = {}

    def __len__(self) -> int:
        return len(self._kind_of)

    @property
    def uids(self) -> list[str]:
        return list(self._kind_of)

    def refuse(self, pod: Pod, names: Sequence[str]) -> None:
        """None of these nodes fits the pod."""
        self.forget(pod.uid)
        kind: Kind = (pod.namespace, pod.pool, pod.profiles, pod.gpus, pod.scenes, tuple(pod.scene_bytes.items()))
        refused = self._refused.setdefault(kind, _Refused(pod, names))
        refused.pod, refused.names = pod, names
        refused.uids.add(pod.uid)
        self._kind_of[pod.uid] = kind
        if len(self._refused) > self._most_kinds:
            for uid in list(self._refused[next(iter(self._refused))].uids):
                self.forget(uid)

    def forget(self, uid: str) -> None:
        """The pod was given a node, is gone, or is about to be asked about again."""
        kind = self._kind_of.pop(uid, None)
        if kind is not None:
            refused = self._refused[kind]
            refused.uids.discard(uid)
            if not refused.uids:
                del self._refused[kind]

    def wakes(self, freed: Iterable[str], fits: Fits) -> str:
        """The first of the `freed` nodes that some refused pod now fits; empty where there is none.

        One is enough: whatever event wakes one such pod wakes them all.
        """
        changed = set(freed)
        for refused in self._refused.values() if changed else ():
            candidates = [name for name in refused.names if name in changed]
            if candidates:
                for name, fit in zip(candidates, fits(refused.pod, candidates), strict=True):
                    if fit:
                        return name
        return ""
