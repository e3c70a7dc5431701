"""What a pod remembers of a session where Triton's sequence batcher is in use: the parameters that its frames share.

A session's START frame says scene, size and format; later frames say what differs. Triton tells a model nothing when
a silent sequence expires, so sessions are reaped here by the same limit, and their number is bounded besides.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

_OF_ONE_FRAME = frozenset({"deadline_ms", "client_time_ms", "action", "preload"})


@dataclass(slots=True)
class _Session:
    parameters: dict[str, Any]
    used_s: float


class Sessions:
    """Open sessions, at most `limit`; losing one costs its parameters, never a frame's correctness."""

    def __init__(self, limit: int, idle_s: float) -> None:
        self._limit, self._idle_s = limit, idle_s
        self._open: OrderedDict[int | str, _Session] = OrderedDict()  # silent for longest first

    def __len__(self) -> int:
        return len(self._open)

    def parameters(
        self, session: int | str, given: Mapping[str, Any], starts: bool, ends: bool, now_s: float
    ) -> Mapping[str, Any]:
        """The parameters of a frame: its own over those of its session."""
        self._reap(now_s)
        kept = self._open.pop(session, None)
        before = kept.parameters if kept is not None and not starts else {}
        merged = {**before, **given}
        if not ends:
            shared = {name: value for name, value in merged.items() if name not in _OF_ONE_FRAME}
            self._open[session] = _Session(shared, now_s)
            while len(self._open) > self._limit:
                self._open.popitem(last=False)
        return merged

    def _reap(self, now_s: float) -> None:
        while self._open:
            session, silent = next(iter(self._open.items()))
            if now_s - silent.used_s <= self._idle_s:
                return
            del self._open[session]


def sessions_of(sequence_batching: Mapping[str, Any] | None) -> Sessions | None:
    """The sessions of a model configuration (as Triton gives it to the model); None where it has no sequences."""
    if sequence_batching is None:
        return None
    slots = int(sequence_batching.get("oldest", {}).get("max_candidate_sequences", 1))
    idle_s = int(sequence_batching.get("max_sequence_idle_microseconds", 1_000_000)) / 1e6
    return Sessions(2 * slots, idle_s)  # twice: an expired one goes at the next frame after its time
