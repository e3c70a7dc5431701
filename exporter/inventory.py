"""What the node holds, as one digest whose generation moves only when a reader would decide differently.

A digest is a value with a strong ETag: as long as the generation stands, the very same digest is served.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from fleet.digest import CachedScene, FetchingScene, GpuDigest, NodeDigest, PodDigest, SceneCache
from fleet.scene import FETCH_STALE_AFTER_S, FetchRecord, SceneRecord, StoreRecord

# When a scene was last used decides what is evicted next, a matter of minutes; yet every frame moves it, and a node
# with traffic would never answer 304. Half a minute is well inside the first and six asks of the extender long.
USE_PERIOD_S = 30.0
# Progress of a download and measured bandwidths move the time to ready by seconds: as often as the extender asks.
PROGRESS_PERIOD_S = 5.0


def cached_scene(record: SceneRecord) -> CachedScene:
    """The scene of a record; its bytes are what it takes on disk, so what its eviction would free."""
    disk_bytes = record.source_bytes + record.packed_bytes
    return CachedScene(record.id, record.digest, disk_bytes, record.last_used_s, record.resident_bytes)


def scene_cache(
    store: StoreRecord,
    scenes: Sequence[CachedScene],
    fetches: Iterable[FetchRecord],
    disk_free_bytes: int,
    now_s: float,
) -> SceneCache:
    """The scene store as the digest says it; `now_s` is Unix time, against the heartbeats of downloads.

    Free is what another scene may take: an object under two ids counts once, a download counts whole from its start,
    and a disk that others filled counts too.
    """
    fetching = [record for record in fetches if now_s - record.heartbeat_s <= FETCH_STALE_AFTER_S]
    object_bytes = sum({scene.digest: scene.bytes for scene in scenes}.values())
    taken_bytes = object_bytes + sum(record.total_bytes for record in fetching)
    return SceneCache(
        capacity_bytes=store.capacity_bytes,
        free_bytes=max(0, min(store.capacity_bytes - taken_bytes, disk_free_bytes)),
        fetch_bytes_per_s=store.fetch_bytes_per_s,
        read_bytes_per_s=store.read_bytes_per_s,
        scenes=tuple(scenes),
        fetching=tuple(FetchingScene(record.id, record.done_bytes, record.total_bytes) for record in fetching),
        peer_bytes_per_s=store.peer_bytes_per_s,
    )


EMPTY_SCENE_CACHE = SceneCache(0, 0, 0.0, 0.0)


class SceneTable:
    """The scenes of the store by file name, kept between scrapes so that one changed record costs one record."""

    def __init__(self) -> None:
        self._scenes: dict[str, CachedScene] = {}
        self._order: list[str] | None = []  # file names by scene id; None where a file came or went
        self._sorted: tuple[CachedScene, ...] | None = ()

    def put(self, file: str, scene: CachedScene) -> None:
        if file not in self._scenes:
            self._order = None
        self._scenes[file] = scene
        self._sorted = None

    def drop(self, file: str) -> None:
        if self._scenes.pop(file, None) is not None:
            self._order = self._sorted = None

    def scenes(self) -> tuple[CachedScene, ...]:
        """All scenes by id; the same tuple until something changes."""
        if self._order is None:
            self._order = sorted(self._scenes, key=lambda file: self._scenes[file].id)
        if self._sorted is None:
            self._sorted = tuple(map(self._scenes.__getitem__, self._order))
        return self._sorted


def same_scenes(left: Sequence[CachedScene], right: Sequence[CachedScene]) -> bool:
    """Whether both hold the same objects under the same ids, whenever they were used."""
    if left is right:
        return True
    return len(left) == len(right) and all(
        a is b or (a.id == b.id and a.digest == b.digest and a.bytes == b.bytes)
        for a, b in zip(left, right, strict=True)
    )


class Inventory:
    """The node's digest from scrape to scrape."""

    def __init__(self, node: str, started_at_s: float) -> None:
        self._digest = NodeDigest(node, 0, started_at_s, EMPTY_SCENE_CACHE)
        self._moved_s = float("-inf")

    @property
    def digest(self) -> NodeDigest:
        """The digest as it stands; generation 0 before the first `update`."""
        return self._digest

    def update(
        self, now_s: float, cache: SceneCache, gpus: tuple[GpuDigest, ...], pods: tuple[PodDigest, ...]
    ) -> NodeDigest:
        """Take in what was just read and return the digest to serve; `now_s` is monotonic.

        What is there, fetched, cut or resident moves the generation at once; progress and bandwidths at most every
        PROGRESS_PERIOD_S, and mere use at most every USE_PERIOD_S, both counted from the last move of any kind.
        """
        old = self._digest
        since_s = now_s - self._moved_s
        moved = (
            old.generation == 0
            or gpus != old.gpus
            or pods != old.pods
            or _fixed(cache) != _fixed(old.scene_cache)
            or not same_scenes(cache.scenes, old.scene_cache.scenes)
            or (since_s >= PROGRESS_PERIOD_S and _progress(cache) != _progress(old.scene_cache))
            or (since_s >= USE_PERIOD_S and cache.scenes != old.scene_cache.scenes)
        )
        if moved:
            self._digest = replace(old, generation=old.generation + 1, scene_cache=cache, gpus=gpus, pods=pods)
            self._moved_s = now_s
        return self._digest


def _fixed(cache: SceneCache) -> tuple[object, ...]:
    return cache.capacity_bytes, tuple((item.id, item.total_bytes) for item in cache.fetching)


def _progress(cache: SceneCache) -> tuple[object, ...]:
    return cache.free_bytes, cache.fetch_bytes_per_s, cache.read_bytes_per_s, cache.peer_bytes_per_s, cache.fetching
