"""What pods asked for lately: the live demand mix, kept as counts so that one more pod is cheap.

Pods count when they come, not when they start: what is short is what pods wait for, and a mix without those that wait
would make it shorter still.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Hashable
from typing import Generic, TypeVar

from fleet.mig import PARTS, MigProfile
from fleet.snapshot import Pod
from scheduler_extender.demand import Demand, demand_of

Key = TypeVar("Key", bound=Hashable)

PODS_REMEMBERED = 1000  # whose profiles, and whose scenes, make the demand mix
MOST_LAG = 0.02


class _Last(Generic[Key]):
    """How often each key was named by the last pods that named any."""

    def __init__(self, most: int) -> None:
        self.counts: Counter[Key] = Counter()
        self._named: deque[tuple[Key, ...]] = deque(maxlen=most)

    def add(self, keys: tuple[Key, ...]) -> None:
        if len(self._named) == self._named.maxlen:
            for key in self._named[0]:
                self.counts[key] -= 1
                if not self.counts[key]:
                    del self.counts[key]
        self._named.append(keys)
        self.counts.update(keys)

    def __len__(self) -> int:
        return len(self._named)


class RecentRequests:
    """The last pods that asked for slices, and the last that named scenes."""

    def __init__(self, most: int = PODS_REMEMBERED) -> None:
        self._profiles: _Last[MigProfile] = _Last(most)
        self._scenes: _Last[str] = _Last(most)
        self._since = 0  # pods that the mix does not know
        self._counted: tuple[Counter[MigProfile], Counter[str]] = (Counter(), Counter())  # what the mix is made of
        self._demand: Demand | None = None

    def see(self, pod: Pod, before: Pod | None) -> bool:
        """Count what a pod asks for that it did not ask for `before`; whether that made another mix.

        Its scenes may be told later than its slices. A mix lags behind by `MOST_LAG` of the pods: one made anew for
        each costs a burst more than everything else that a decision does. When it is made anew follows from the pods
        alone, whoever reads it when: else a replay would decide by another.
        """
        news = False
        if pod.profiles and not (before is not None and before.profiles):
            self._profiles.add(pod.profiles)
            news = True
        if pod.scenes and not (before is not None and before.scenes):
            self._scenes.add(tuple(pod.scenes))
            news = True
        self._since += news
        if self._since <= MOST_LAG * max(len(self._profiles), len(self._scenes)):
            return False
        self._counted = self._profiles.counts.copy(), self._scenes.counts.copy()
        self._demand, self._since = None, 0
        return True

    @property
    def demand(self) -> Demand:
        """The demand mix of these pods."""
        if self._demand is None:
            profiles, scenes = self._counted
            roles: dict[str, Counter[str]] = {name: Counter() for name in PARTS}
            for name, part in PARTS.items():
                for profile, count in profiles.items():
                    role = part.role_of(profile)
                    if role is not None:
                        roles[name][role.name] += count
            self._demand = demand_of(roles, scenes)
        return self._demand
