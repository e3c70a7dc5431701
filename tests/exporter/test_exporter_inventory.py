"""The digest: what moves its generation, and what is free in a store."""

from __future__ import annotations

from dataclasses import replace

import pytest

from exporter.inventory import Inventory, SceneTable, scene_cache
from fleet.digest import CachedScene, FetchingScene, GpuDigest, PodDigest, ResidentScene, SceneCache, Slice, etag
from fleet.scene import FetchRecord, StoreRecord

A = CachedScene("a", "a" * 64, 100, 1.0)
B = CachedScene("b", "b" * 64, 200, 1.0)
CACHE = SceneCache(1000, 700, 5.0, 0.0, (A, B), (FetchingScene("c", 10, 50),))
GPUS = (GpuDigest("GPU-0", "H100-80", True, (Slice("1g.10gb", 0),)),)
PODS = (PodDigest("pod-0", "viewers", 1000, (ResidentScene("a", 100),)),)


@pytest.fixture
def inventory() -> Inventory:
    """One that served its first digest at 0 s."""
    inventory = Inventory("node-0", 1_700_000_000.0)
    inventory.update(0.0, CACHE, GPUS, PODS)
    return inventory


def test_the_same_contents_are_the_same_digest(inventory: Inventory) -> None:
    first = inventory.digest
    assert first.generation == 1
    assert inventory.update(1e6, replace(CACHE, scenes=(replace(A), replace(B))), GPUS, PODS) is first


@pytest.mark.parametrize(
    "change",
    [
        {"cache": replace(CACHE, scenes=(A,))},
        {"cache": replace(CACHE, scenes=(A, replace(B, digest="c" * 64)))},
        {"cache": replace(CACHE, scenes=(A, replace(B, bytes=201)))},
        {"cache": replace(CACHE, scenes=(A, B, CachedScene("d", "d" * 64, 1, 1.0)))},
        {"cache": replace(CACHE, capacity_bytes=2000)},
        {"cache": replace(CACHE, fetching=())},
        {"gpus": (replace(GPUS[0], slices=(Slice("1g.10gb", 0, True, "pod-9"),)),)},
        {"gpus": (replace(GPUS[0], healthy=False),)},
        {"pods": ()},
        {"pods": (replace(PODS[0], resident=()),)},
    ],
)
def test_what_decides_moves_the_generation_at_once(inventory: Inventory, change: dict[str, object]) -> None:
    before = etag(inventory.digest)
    digest = inventory.update(0.1, **({"cache": CACHE, "gpus": GPUS, "pods": PODS} | change))  # type: ignore[arg-type]
    assert digest.generation == 2
    assert etag(digest) != before


def test_use_alone_moves_it_every_half_minute(inventory: Inventory) -> None:
    moves = []
    for now_s in range(1, 100):
        used = replace(CACHE, scenes=(replace(A, last_used_s=float(now_s)), B))
        before = inventory.digest.generation
        if inventory.update(float(now_s), used, GPUS, PODS).generation != before:
            moves.append(now_s)
    assert moves == [30, 60, 90]
    assert inventory.digest.scene_cache.scenes[0].last_used_s == 90.0, "what is served is what its ETag names"


def test_progress_moves_it_every_five_seconds(inventory: Inventory) -> None:
    moves = []
    for now_s in range(1, 16):
        going = replace(CACHE, free_bytes=700 - now_s, fetching=(FetchingScene("c", 10 + now_s, 50),))
        before = inventory.digest.generation
        if inventory.update(float(now_s), going, GPUS, PODS).generation != before:
            moves.append(now_s)
    assert moves == [5, 10, 15]


def test_free_bytes_count_objects_once_and_downloads_whole() -> None:
    store = StoreRecord(1000, 5.0, 0.0)
    twin = replace(A, id="a-again")
    fetch = FetchRecord("c", "c" * 64, 10, 300, heartbeat_s=100.0)
    cache = scene_cache(store, (A, twin, B), [fetch], disk_free_bytes=10**9, now_s=105.0)
    assert cache.free_bytes == 1000 - 100 - 200 - 300
    assert cache.fetching == (FetchingScene("c", 10, 300),)
    stale = scene_cache(store, (A, twin, B), [fetch], disk_free_bytes=10**9, now_s=111.0)
    assert (stale.free_bytes, stale.fetching) == (700, ())
    assert scene_cache(store, (A,), [], disk_free_bytes=50, now_s=0.0).free_bytes == 50
    assert scene_cache(StoreRecord(10, 0, 0), (A,), [], disk_free_bytes=50, now_s=0.0).free_bytes == 0


def test_the_table_sorts_by_id_and_keeps_its_tuple() -> None:
    table = SceneTable()
    table.put("b.json", B)
    table.put("a.json", A)
    scenes = table.scenes()
    assert scenes == (A, B)
    assert table.scenes() is scenes
    table.drop("nothing.json")
    assert table.scenes() is scenes
    table.drop("a.json")
    assert table.scenes() == (B,)
