"""What pods asked for lately, as the cost reads it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from fleet.mig import PARTS, MigProfile, fragmentation_table
from scheduler_extender.offers import PART_INDEX
from scheduler_extender.scene_table import Floats


@dataclass(frozen=True, slots=True, eq=False)
class Demand:
    """What pods asked for lately: fragmentation by part and mask [parts + 1, 256], and each scene's share of starts."""

    fragmentation: Floats
    role_share: Mapping[str, Mapping[str, float]]  # part -> role -> share of the requests that the part could serve
    scene_share: Mapping[str, float]
    other_share: float  # of a scene that nobody asked for
    _places: dict[tuple[MigProfile, ...], Floats] = field(default_factory=dict)
    _share: dict[MigProfile, Floats] = field(default_factory=dict)

    def places(self, profiles: tuple[MigProfile, ...]) -> Floats:
        """[profiles, parts + 1, 256]: slices that fit beside a mask, times the profile's share of requests."""
        if profiles not in self._places:
            tables = np.zeros((len(profiles), len(PARTS) + 1, 256))
            for row, profile in enumerate(profiles):
                for name, part in PARTS.items():
                    role = part.role_of(profile)
                    if role is not None:
                        places = part.layout.places[part.layout.roles.index(role)]
                        tables[row, PART_INDEX[name], : len(places)] = self.role_share[name][role.name] * places
            self._places[profiles] = tables
        return self._places[profiles]

    def share(self, profile: MigProfile) -> Floats:
        """[parts + 1]: the profile's share of the requests that a part could serve; 0 where it has no such profile."""
        if profile not in self._share:
            shares = self._share[profile] = np.zeros(len(PARTS) + 1)
            for name, part in PARTS.items():
                role = part.role_of(profile)
                if role is not None:
                    shares[PART_INDEX[name]] = self.role_share[name][role.name]
        return self._share[profile]


def demand_of(profiles: Mapping[str, Mapping[str, float]], scenes: Mapping[str, float]) -> Demand:
    """Demand from how often each role (by layout name) and each scene was asked for lately.

    One request of each plain role and of each scene is added, so that what was never asked for is rare, not worthless.
    """
    tables = np.zeros((len(PARTS) + 1, 256))
    role_share: dict[str, Mapping[str, float]] = {}
    made: dict[tuple[str, tuple[float, ...]], Floats] = {}
    for name, part in PARTS.items():
        plain = {role.name: 1.0 for role in part.layout.roles if role.name in ("1g", "2g", "3g", "4g", "7g")}
        counted = profiles.get(part.name, {})
        frequency = {role.name: plain.get(role.name, 0.0) + counted.get(role.name, 0.0) for role in part.layout.roles}
        same = (part.layout.name, tuple(frequency.values()))  # most parts are asked for alike: seldom or never
        if same not in made:
            made[same] = fragmentation_table(part.layout, frequency)
        tables[PART_INDEX[name], : len(made[same])] = made[same]
        requests = sum(frequency.values())
        role_share[name] = {role: count / requests for role, count in frequency.items()}
    total = sum(scenes.values()) + len(scenes) + 1
    scene_share = {scene: (count + 1) / total for scene, count in scenes.items()}
    return Demand(tables, role_share, scene_share, 1 / total)
