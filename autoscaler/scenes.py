"""The per-scene forecast, thin: the pool's total times each scene's share, which decays exponentially."""

from __future__ import annotations

from collections.abc import Mapping

from fleet.scene import SceneId

MOST_SHARES_TOLD = 16  # scenes: what is told of a pool stays short, and the rest weighs little


class SceneShares:
    """Follows which share of the demand each scene has; shares sum to 1 once anything was seen."""

    def __init__(self, half_life_s: float) -> None:
        self._half_life_s = half_life_s
        self._weights: dict[SceneId, float] = {}
        self._now_s: float | None = None

    def update(self, counts: Mapping[SceneId, float], now_s: float) -> None:
        """Learn the arrivals of each scene over the last bins; an empty mapping teaches nothing."""
        total = sum(value for value in counts.values() if value > 0)
        if total <= 0:
            return
        elapsed_s = self._half_life_s if self._now_s is None else max(0.0, now_s - self._now_s)
        keep = 0.5 ** (elapsed_s / self._half_life_s) if self._weights else 0.0
        self._now_s = now_s
        scenes = sorted(self._weights.keys() | counts.keys())  # sums are the same to the last bit in every process
        blended = {
            scene: keep * self._weights.get(scene, 0.0) + (1.0 - keep) * max(counts.get(scene, 0.0), 0.0) / total
            for scene in scenes
        }
        self._weights = {scene: weight for scene, weight in blended.items() if weight > 1e-6}

    def forecast(self, total_per_s: float) -> dict[SceneId, float]:
        """Requests/s of each scene when the pool sees `total_per_s`, hottest first, ties by id."""
        if not self._weights:
            return {}
        whole = sum(self._weights.values())
        ordered = sorted(self._weights.items(), key=lambda item: (-item[1], item[0]))
        return {scene: total_per_s * weight / whole for scene, weight in ordered}

    def most_wanted(self, count: int = MOST_SHARES_TOLD) -> dict[SceneId, float]:
        """The share of the demand of each of the `count` hottest scenes; those left out are what is missing to 1."""
        return dict(list(self.forecast(1.0).items())[:count])
