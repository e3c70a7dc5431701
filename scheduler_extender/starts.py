"""What the pods that started last asked for: the live demand mix, kept as counts so that one more start is cheap."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Iterator
from typing import TypeVar

from fleet.mig import PARTS, MigProfile
from fleet.snapshot import Pod
from scheduler_extender.demand import Demand, demand_of

Key = TypeVar("Key")

STARTS_REMEMBERED = 1000  # pods whose profiles and scenes make the demand mix
MOST_LAG = 0.02


class Starts:
    """The last pods that were seen on a node for the first time."""

    def __init__(self, most: int = STARTS_REMEMBERED) -> None:
        self._pods: deque[Pod] = deque(maxlen=most)
        self._profiles: Counter[MigProfile] = Counter()
        self._scenes: Counter[str] = Counter()
        self._demand: Demand | None = None
        self._since = 0  # starts that `_demand` does not know

    def __iter__(self) -> Iterator[Pod]:
        return iter(self._pods)

    def add(self, pod: Pod) -> None:
        """Count a start; the oldest one goes where there are too many."""
        if len(self._pods) == self._pods.maxlen:
            oldest = self._pods[0]
            _take(self._profiles, oldest.profiles)
            _take(self._scenes, oldest.scenes)
        self._pods.append(pod)
        self._profiles.update(pod.profiles)
        self._scenes.update(pod.scenes)
        self._since += 1

    @property
    def demand(self) -> Demand:
        """The demand mix that these starts make; it may lag behind by `MOST_LAG` of them.

        A mix made anew for every pod costs a burst more than everything else that a decision does.
        """
        if self._demand is None or self._since > MOST_LAG * len(self._pods):
            roles: dict[str, Counter[str]] = {name: Counter() for name in PARTS}
            for name, part in PARTS.items():
                for profile, count in self._profiles.items():
                    role = part.role_of(profile)
                    if role is not None:
                        roles[name][role.name] += count
            self._demand = demand_of(roles, self._scenes)
            self._since = 0
        return self._demand


def _take(counter: Counter[Key], keys: Iterable[Key]) -> None:
    for key in keys:
        counter[key] -= 1
        if not counter[key]:
            del counter[key]
