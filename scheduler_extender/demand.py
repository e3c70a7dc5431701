"""What pods asked for lately, as the cost reads it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from fleet.mig import PARTS, fragmentation_table
from scheduler_extender.offers import PART_INDEX
from scheduler_extender.scene_table import Floats


@dataclass(frozen=True, slots=True)
class Demand:
    """What pods asked for lately: fragmentation by part and mask [parts + 1, 256], and each scene's share of starts."""

    fragmentation: Floats
    scene_share: Mapping[str, float]
    other_share: float  # of a scene that nobody asked for


def demand_of(profiles: Mapping[str, Mapping[str, float]], scenes: Mapping[str, float]) -> Demand:
    """Demand from how often each role (by layout name) and each scene was asked for lately.

    One request of each plain role and of each scene is added, so that what was never asked for is rare, not worthless.
    """
    tables = np.zeros((len(PARTS) + 1, 256))
    made: dict[tuple[str, tuple[float, ...]], Floats] = {}
    for name, part in PARTS.items():
        plain = {role.name: 1.0 for role in part.layout.roles if role.name in ("1g", "2g", "3g", "4g", "7g")}
        counted = profiles.get(part.name, {})
        frequency = {role.name: plain.get(role.name, 0.0) + counted.get(role.name, 0.0) for role in part.layout.roles}
        same = (part.layout.name, tuple(frequency.values()))  # most parts are asked for alike: seldom or never
        if same not in made:
            made[same] = fragmentation_table(part.layout, frequency)
        tables[PART_INDEX[name], : len(made[same])] = made[same]
    total = sum(scenes.values()) + len(scenes) + 1
    return Demand(tables, {scene: (count + 1) / total for scene, count in scenes.items()}, 1 / total)
