"""Which scene each request of a played traffic asks for, and the terms on which scenes are held."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fleet.scene import SceneId
from simulator.queue import Floats
from simulator.scene_trace import read_scene_trace, scenes_of

SCENE_BYTES = 1_000_000_000  # of every scene: all are of one size


@dataclass(frozen=True, slots=True)
class SceneSetting:
    """Scenes are held in memory by pods, on disks by nodes that outlive them; room is counted in scenes."""

    scenes: int
    exponent: float = 0.9  # Zipf: the share of the scene of rank r is proportional to r ** -exponent
    trace: Path | None = None  # recorded requests whose objects are the scenes, drifting as they did; else Zipf
    per_pod: int = 8
    nodes: int = 4
    per_node: int = 32
    load_s: float = 2.0  # from a node's disk into a pod's memory
    fetch_s: float = 20.0  # onto a node's disk, with its whole link

    def __post_init__(self) -> None:
        for name in ("scenes", "per_pod", "nodes", "per_node"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}, expected 1 or more")

    def draw(self, arrivals: Floats, seed: int) -> Scenes:
        """The scene of each arrival."""
        random = np.random.default_rng((seed, 0x5CE7))
        if self.trace is not None:
            asked = scenes_of(read_scene_trace(self.trace), self.scenes, arrivals, random).astype(np.int32)
        else:
            weights = np.arange(1.0, self.scenes + 1.0) ** -self.exponent
            below = np.cumsum(weights / weights.sum())[:-1]
            asked = np.searchsorted(below, random.random(arrivals.size), side="right").astype(np.int32)
        return Scenes(self, asked)


@dataclass(frozen=True, slots=True, eq=False)
class Scenes:
    """What the requests of one traffic ask for."""

    setting: SceneSetting
    asked: NDArray[np.int32]  # [requests]
    names: tuple[SceneId, ...] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "names", tuple(SceneId(f"scene-{n:05d}") for n in range(self.setting.scenes)))
