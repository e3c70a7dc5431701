"""Which pod a scene prefers: highest random weight, bounded by load.

Thaler and Ravishankar, "Using name-based mappings to increase hit rates", 1998: a pod that joins or leaves moves
only the scenes that it wins or held. Mirrokni, Thorup and Zadimoghaddam, "Consistent hashing with bounded loads",
2018: no pod takes more than c times the mean.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from functools import lru_cache
from hashlib import blake2b

LOAD_FACTOR = 1.25  # c of the paper


@lru_cache(maxsize=65_536)
def weight(scene: str, uid: str) -> int:
    """The weight of a pod for a scene, the same in every process."""
    return int.from_bytes(blake2b(f"{scene}\0{uid}".encode(), digest_size=8).digest(), "big")


def preference(scene: str, uids: Iterable[str]) -> list[str]:
    """The pods in the order in which the scene prefers them."""
    return sorted(uids, key=lambda uid: weight(scene, uid), reverse=True)


def load_bound(total_in_flight: int, pods: int) -> int:
    """Requests that one of `pods` may hold once one more has come to `total_in_flight`."""
    return math.ceil(LOAD_FACTOR * (total_in_flight + 1) / pods)


def choose(scene: str, in_flight: Mapping[str, int], limit: int) -> str | None:
    """The pod that takes the next request of the scene, None where all hold `limit`.

    An idle pod beats one that renders, whatever the hash says: a frame costs more than a cache line. Then comes
    the first in order of preference that is under the bound.
    """
    open_pods = [uid for uid in preference(scene, in_flight) if in_flight[uid] < limit]
    if not open_pods:
        return None
    bound = load_bound(sum(in_flight.values()), len(in_flight))
    for ceiling in (1, bound):
        for uid in open_pods:
            if in_flight[uid] < ceiling:
                return uid
    return min(open_pods, key=in_flight.__getitem__)
