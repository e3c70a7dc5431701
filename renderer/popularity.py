"""How often the fleet asks for each scene lately, and what of that is worth bringing to a node that has room."""

from __future__ import annotations

import math
from collections.abc import Mapping

from fleet.scene import SceneId
from renderer.catalogue import CatalogueEntry

_HALF_LIFE_S = 600.0


class Popularity:
    """Requests by scene, from gateways' counters, halved every ten minutes."""

    def __init__(self) -> None:
        self._counts: dict[str, dict[str, float]] = {}  # gateway -> scene -> its counter
        self.requests: dict[str, float] = {}  # decayed
        self._at_s: float | None = None

    def add(self, gateway: str, counts: Mapping[str, float], now_s: float) -> None:
        """Learn from one look at a gateway's counters; one that went back counts from zero (the gateway restarted)."""
        if self._at_s is not None:
            faded = math.exp2(-(now_s - self._at_s) / _HALF_LIFE_S)
            self.requests = {scene: count * faded for scene, count in self.requests.items()}
        self._at_s = now_s
        before = self._counts.get(gateway)
        self._counts[gateway] = dict(counts)
        if before is None:  # its counter may be a year old
            return
        for scene, count in counts.items():
            grown = count - before.get(scene, 0.0)
            self.requests[scene] = self.requests.get(scene, 0.0) + (grown if grown >= 0 else count)


def most_wanted(
    requests: Mapping[str, float], entries: Mapping[SceneId, CatalogueEntry], here: set[str], room_bytes: float
) -> SceneId | None:
    """The scene with the most requests that is not here and fits, packed layout included; None where there is none."""
    for scene, count in sorted(requests.items(), key=lambda item: (-item[1], item[0])):
        entry = entries.get(SceneId(scene))
        if count <= 0 or entry is None or scene in here or entry.source_bytes is None:
            continue
        if entry.source_bytes + (entry.resident_bytes or entry.source_bytes) <= room_bytes:
            return entry.id
    return None
