"""The policies beside which the scene cache is measured, and that its own is what the cache does."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from benchmarks.cache import load_seconds, replay, sizes_of
from benchmarks.cache_policies import (
    FarthestNextUse,
    GreedyDualSizeFrequency,
    LeastRecentlyUsed,
    Policy,
    SceneCachePolicy,
)
from benchmarks.uncounted import Uncounted
from fleet.scene import SceneId
from renderer.eviction import SmallMainFifo
from renderer.scene_cache import SceneCache

BUDGET = 10


def drawn(count: int = 4000, objects: int = 60) -> list[int]:
    rng = np.random.default_rng(3)
    weights = 1 / np.arange(1, objects + 1)
    names: list[int] = rng.choice(objects, count, p=weights / weights.sum()).tolist()
    return names


def test_the_scene_cache_does_what_the_benchmark_measures() -> None:
    names, sizes = drawn(), [1 + number % 4 for number in range(60)]

    def load(scene: SceneId, reserve: Callable[[int], None]) -> str:
        reserve(sizes[int(scene)])
        return scene

    cache: SceneCache[str] = SceneCache(BUDGET, load, Uncounted(), visit_s=0.0)
    policy = SceneCachePolicy(BUDGET)
    for name in names:
        with cache.pinned(SceneId(str(name))) as pin:
            assert (pin.result == "hit") == policy.request(name, sizes[name])


@pytest.mark.parametrize("make", [LeastRecentlyUsed, SceneCachePolicy, lambda b: GreedyDualSizeFrequency(b, float)])
def test_a_policy_holds_what_fits_and_nothing_more(make: Callable[[int], Policy]) -> None:
    policy = make(BUDGET)
    assert [policy.request(name, 5) for name in (1, 2, 1, 2)] == [False, False, True, True]
    held = make(BUDGET)
    for name in range(50):
        held.request(name, 5)
    assert sum(held.request(name, 5) for name in range(49, 30, -1)) <= 2


def test_gdsf_keeps_the_small_and_often_used_and_ages() -> None:
    policy = GreedyDualSizeFrequency(BUDGET, lambda _: 1.0)
    for _ in range(3):
        policy.request(1, 1)
    policy.request(2, 9)
    assert not policy.request(3, 9)  # 2 went: large and used once
    assert policy.request(1, 1)
    for name in range(4, 60):
        policy.request(name, 5)
    assert not policy.request(1, 1)  # old fame ends


def test_s3_fifo_lets_a_scan_pass() -> None:
    policy = SceneCachePolicy(20)
    for _ in range(3):
        for name in range(8):
            policy.request(name, 1)
    for name in range(100, 160):
        policy.request(name, 1)
    assert sum(policy.request(name, 1) for name in range(8)) >= 6
    plain = LeastRecentlyUsed(20)
    for name in [*range(8)] * 3 + [*range(100, 160)]:
        plain.request(name, 1)
    assert not any(plain.request(name, 1) for name in range(8))


def test_nobody_beats_the_clairvoyant_where_all_are_of_one_size() -> None:
    names, sizes = drawn(), [1] * 60
    best = replay(FarthestNextUse(BUDGET, names), names, sizes)[0]
    for policy in (LeastRecentlyUsed(BUDGET), SceneCachePolicy(BUDGET), GreedyDualSizeFrequency(BUDGET, float)):
        assert best <= replay(policy, names, sizes)[0] < len(names)


def test_sizes_are_those_of_scenes() -> None:
    sizes = sizes_of(2000)
    assert (min(sizes), max(sizes)) >= (30_000_000, 1_500_000_000)
    assert 250e6 < np.median(sizes) < 350e6
    assert load_seconds(1_000_000_000) == pytest.approx(1.2)


def test_what_may_not_go_stays_and_nothing_goes_where_nothing_may() -> None:
    order: SmallMainFifo[int] = SmallMainFifo(BUDGET)
    for name in range(4):
        order.came(name, 2)
    order.visited(1)
    order.visited(1)
    assert order.next_to_go(lambda name: name == 1) == 1  # visited or not: it is the only one that may
    assert order.next_to_go(lambda name: name > 1) == 2
    assert order.next_to_go(lambda _: False) is None
    order.went(2)
    order.went(2)
    assert order.next_to_go(lambda name: name == 2) is None
