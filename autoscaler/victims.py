"""Which pods go first on the way down: those that start, then those whose loss costs the least warmth."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from autoscaler.capacity_types import rank
from autoscaler.observation import Observation
from autoscaler.pool import CapacityType


def choose_victims(observation: Observation, count: int, types: Sequence[CapacityType] = ()) -> tuple[str, ...]:
    """Uids of `count` pods to drain, first goes first.

    Draining pods count as chosen, and those on unhealthy slices come next. A starting pod serves nobody yet, the
    youngest has cost the least. A ready pod is worth the demand of the scenes that it holds, each shared among the pods
    that hold it; the dearer capacity type leaves before the cheaper, whatever it holds.
    """
    if count <= 0:
        return ()
    draining = [pod.uid for pod in observation.pods if pod.draining]
    sick = [pod.uid for pod in observation.pods if not pod.healthy]
    starting = [pod.uid for pod in sorted(observation.starting, key=lambda pod: (pod.age_s, pod.uid))]
    copies = Counter(scene for pod in observation.pods if pod.ready for scene in pod.resident)

    def warmth(uid_index: int) -> tuple[int, float, int, str]:
        pod = observation.pods[uid_index]
        dear = -rank(pod.capacity_type, types) if types else 0
        worth = sum(observation.scene_demand.get(scene, 0.0) / copies[scene] for scene in pod.resident)
        return dear, worth, pod.in_flight, pod.uid

    ready = [index for index, pod in enumerate(observation.pods) if pod.ready and not pod.draining]
    ordered = [*draining, *sick, *starting, *(observation.pods[index].uid for index in sorted(ready, key=warmth))]
    return tuple(dict.fromkeys(ordered))[:count]
