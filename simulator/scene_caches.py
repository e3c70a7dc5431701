"""The nodes' scene caches: least recently used goes first, downloads queue one after another on each node's link.

Room is taken when a download is queued; a scene on its way is not evicted. Tiers, copies and victims are kept as the
arrays of the extender's node table (row 0 is the node of which nothing is known), so that it reads them as they are.
"""

from __future__ import annotations

import heapq
from collections import OrderedDict

import numpy as np
from numpy.typing import NDArray

from scheduler_extender.scene_table import Tier
from simulator.placement_workload import Floats

FETCH_BYTES_PER_S = 1e9
READ_BYTES_PER_S = 6e9


class SceneCaches:
    """What lies on every node, and what is on its way there."""

    def __init__(self, nodes: int, capacity_bytes: float, scene_bytes: Floats) -> None:
        self.capacity_bytes = capacity_bytes
        self.scene_bytes = scene_bytes
        self.tier: NDArray[np.uint8] = np.zeros((len(scene_bytes), nodes + 1), np.uint8)
        self.copies: Floats = np.zeros(max(1, len(scene_bytes)))
        self.free_bytes: Floats = np.concatenate([[0.0], np.full(nodes, capacity_bytes)])
        self.queue_end_s: Floats = np.zeros(nodes + 1)
        self.pulled_bytes = 0.0
        self.changed: set[int] = set()  # nodes whose victims are not what they were
        self._held: list[OrderedDict[int, None]] = [OrderedDict() for _ in range(nodes)]
        self._arriving: list[dict[int, float]] = [{} for _ in range(nodes)]  # scene -> when it is there
        self._landings: list[tuple[float, int, int]] = []  # (when, node, scene)

    def tier_of(self, node: int, scene: int) -> Tier:
        return Tier(int(self.tier[scene, node + 1]))

    def on_disk(self, scene: int) -> NDArray[np.bool_]:
        """[nodes]: which hold the scene whole."""
        here: NDArray[np.bool_] = self.tier[scene, 1:] == Tier.DISK
        return here

    def arriving(self, scene: int, now_s: float) -> dict[int, float]:
        """Seconds until the scene is there, by node that waits for it."""
        nodes = np.flatnonzero(self.tier[scene, 1:] == Tier.FETCHING)
        return {int(node): self._arriving[node][scene] - now_s for node in nodes}

    def ready_s(self, scene: int, now_s: float) -> Floats:
        """[nodes]: seconds until a pod that starts now could show the scene."""
        size = self.scene_bytes[scene]
        pull_s = np.maximum(self.queue_end_s[1:] - now_s, 0.0) + size / FETCH_BYTES_PER_S
        ready: Floats = np.where(self.tier[scene, 1:] == Tier.REMOTE, pull_s, 0.0)
        for node, wait_s in self.arriving(scene, now_s).items():
            ready[node] = wait_s
        ready += size / READ_BYTES_PER_S
        return ready

    def victims(self, node: int) -> list[int]:
        """What could be evicted, least recently used first."""
        arriving = self._arriving[node]
        return [scene for scene in self._held[node] if scene not in arriving]

    def advance(self, now_s: float) -> None:
        """Downloads that have ended by now are on disk."""
        while self._landings and self._landings[0][0] <= now_s:
            when_s, node, scene = heapq.heappop(self._landings)
            if self._arriving[node].get(scene) == when_s:  # else the node was lost meanwhile
                del self._arriving[node][scene]
                self.tier[scene, node + 1] = Tier.DISK
                self.copies[scene] += 1
                self.changed.add(node)

    def use(self, node: int, scene: int, now_s: float) -> float:
        """A pod starts with the scene on the node: fetch it where it is missing; seconds until it can be shown."""
        held, arriving = self._held[node], self._arriving[node]
        size = float(self.scene_bytes[scene])
        self.changed.add(node)
        if scene in held:
            held.move_to_end(scene)
            return max(0.0, arriving.get(scene, now_s) - now_s) + size / READ_BYTES_PER_S
        done_s = max(float(self.queue_end_s[node + 1]), now_s) + size / FETCH_BYTES_PER_S
        self.queue_end_s[node + 1] = done_s
        self.pulled_bytes += size
        if self._make_room(node, size):
            held[scene] = None
            arriving[scene] = done_s
            self.free_bytes[node + 1] -= size
            self.tier[scene, node + 1] = Tier.FETCHING
            heapq.heappush(self._landings, (done_s, node, scene))
        return done_s - now_s + size / READ_BYTES_PER_S

    def lose(self, node: int) -> None:
        """The node is gone with all that it holds."""
        for scene in list(self._held[node]):
            self._drop(node, scene)
        self._arriving[node].clear()
        self.queue_end_s[node + 1] = 0.0

    def _make_room(self, node: int, size: float) -> bool:
        """Evict until `size` fits; False, with nothing evicted, where that cannot be."""
        victims = self.victims(node)
        if self.free_bytes[node + 1] + sum(self.scene_bytes[scene] for scene in victims) < size:
            return False
        for scene in victims:
            if self.free_bytes[node + 1] >= size:
                break
            self._drop(node, scene)
        return True

    def _drop(self, node: int, scene: int) -> None:
        del self._held[node][scene]
        self.free_bytes[node + 1] += self.scene_bytes[scene]
        if self.tier[scene, node + 1] == Tier.DISK:
            self.copies[scene] -= 1
        self.tier[scene, node + 1] = Tier.REMOTE
        self.changed.add(node)
