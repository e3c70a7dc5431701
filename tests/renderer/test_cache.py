"""The pod's scene cache: bytes, pins, single flight, eviction, failures."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import ExitStack

import numpy as np
import pytest

from fleet.scene import SceneId
from renderer.scene_cache import SceneCache, StillLoading
from renderer.scene_memory import Cause, OverBudget

A, B, C, D = (SceneId(letter) for letter in "abcd")


class Counts:
    """What a watcher was told."""

    def __init__(self) -> None:
        self.hits = self.misses = 0
        self.evictions: list[tuple[SceneId, Cause]] = []
        self.highest_bytes = 0
        self.resident: dict[SceneId, int] = {}
        self.draining_bytes = 0

    def looked_up(self, hit: bool) -> None:
        self.hits += hit
        self.misses += not hit

    def evicted(self, scene: SceneId, cause: Cause) -> None:
        self.evictions.append((scene, cause))

    def changed(self, resident: dict[SceneId, int], draining_bytes: int) -> None:
        self.resident, self.draining_bytes = resident, draining_bytes
        self.highest_bytes = max(self.highest_bytes, sum(resident.values()) + draining_bytes)


class Shelf:
    """Scenes by size; loading one takes a while, or fails."""

    def __init__(self, sizes: dict[SceneId, int]) -> None:
        self.sizes = sizes
        self.loads: list[SceneId] = []
        self.errors: dict[SceneId, list[Exception]] = {}
        self.gate = threading.Event()
        self.gate.set()

    def __call__(self, scene: SceneId, reserve: Callable[[int], None]) -> str:
        self.loads.append(scene)
        reserve(self.sizes[scene])
        assert self.gate.wait(10)
        if self.errors.get(scene):
            raise self.errors[scene].pop(0)
        return f"pixels of {scene}"


def make(budget_bytes: int = 100, **options: float) -> tuple[SceneCache[str], Shelf, Counts]:
    shelf, counts = Shelf({A: 40, B: 40, C: 40, D: 101}), Counts()
    return SceneCache(budget_bytes, shelf, counts, **options), shelf, counts


def use(cache: SceneCache[str], scene: SceneId) -> str:
    with cache.pinned(scene) as pin:
        return pin.result


def test_hit_and_load() -> None:
    cache, shelf, counts = make()
    assert [use(cache, A), use(cache, A)] == ["load", "hit"]
    assert (counts.hits, counts.misses, shelf.loads) == (1, 1, [A])
    assert cache.resident() == counts.resident == {A: 40}


def test_what_nobody_came_back_for_goes_first_and_frames_of_one_visit_count_once() -> None:
    for visit_s, gone in ((0.0, B), (10.0, A)):
        cache, _, counts = make(visit_s=visit_s)
        for scene in (A, B, A, A, C):
            use(cache, scene)
        assert counts.evictions == [(gone, "budget")]
        assert counts.highest_bytes <= 100
        assert set(cache.resident()) == {A, B, C} - {gone}


def test_pinned_scene_outlives_its_eviction_and_its_bytes_count() -> None:
    cache, _, _ = make(patience_s=0.05)
    with cache.pinned(A) as pin, cache.pinned(B):
        with pytest.raises(OverBudget, match="scene c takes 40 bytes; of the pod's 100 80 are in use"):
            use(cache, C)
        assert pin.value == "pixels of a"
        assert cache.draining_bytes() == 40, "one scene drains, not both"
        assert list(cache.resident()) == [B]
    assert cache.draining_bytes() == 0


def test_load_waits_until_a_frame_ends() -> None:
    cache, _, counts = make()
    done = threading.Event()
    with ExitStack() as frame:
        frame.enter_context(cache.pinned(A))
        use(cache, B)
        frame.enter_context(cache.pinned(B))
        thread = threading.Thread(target=lambda: (use(cache, C), done.set()))
        thread.start()
        assert not done.wait(0.1)
    assert done.wait(5)
    thread.join()
    assert counts.highest_bytes <= 100


def test_scene_larger_than_the_budget_is_refused_and_evicts_nothing() -> None:
    cache, _, counts = make()
    use(cache, A)
    with pytest.raises(OverBudget, match="scene d takes 101 bytes, the pod's budget is 100"):
        use(cache, D)
    assert counts.evictions == []
    assert cache.state(D)[0] == "failed"


def test_a_hundred_askers_one_load() -> None:
    cache, shelf, counts = make()
    shelf.gate.clear()
    results: list[str] = []
    threads = [threading.Thread(target=lambda: results.append(use(cache, A))) for _ in range(100)]
    for thread in threads:
        thread.start()
    _until(lambda: counts.misses == 100)
    assert cache.state(A)[0] == "loading"
    shelf.gate.set()
    for thread in threads:
        thread.join()
    assert shelf.loads == [A]
    assert sorted(results) == ["load"] + ["wait"] * 99


def test_failure_reaches_every_waiter_stands_a_while_and_is_tried_again() -> None:
    cache, shelf, _ = make(retry_after_s=0.2)
    shelf.errors[A] = [ValueError("broken file")]
    shelf.gate.clear()
    errors: list[str] = []

    def ask() -> None:
        with pytest.raises(ValueError) as caught:
            use(cache, A)
        errors.append(str(caught.value))

    threads = [threading.Thread(target=ask) for _ in range(5)]
    for thread in threads:
        thread.start()
    _until(lambda: len(cache._slots) == 1)
    shelf.gate.set()
    for thread in threads:
        thread.join()
    assert errors == ["broken file"] * 5
    assert (cache.state(A), cache.warm(A)) == (("failed", "broken file"), ("failed", "broken file"))
    with pytest.raises(ValueError):
        use(cache, A)
    assert shelf.loads == [A], "a failure that stands was loaded again"
    time.sleep(0.25)
    assert use(cache, A) == "load"
    assert cache.resident() == {A: 40}


def test_warm_answers_at_once_and_drop_forgets() -> None:
    cache, shelf, counts = make()
    shelf.gate.clear()
    began_s = time.monotonic()
    assert cache.warm(A) == ("loading", "")
    assert time.monotonic() - began_s < 1
    assert not cache.drop(A), "a scene on its way cannot be dropped"
    shelf.gate.set()
    _until(lambda: cache.state(A)[0] == "resident")
    assert cache.warm(A) == ("resident", "")
    assert cache.drop(A)
    assert cache.state(A) == ("unknown", "")
    assert counts.evictions == [(A, "drop")]
    assert shelf.loads == [A]


def test_out_of_memory_evicts_one_and_tries_once_more() -> None:
    cache, shelf, counts = make()
    use(cache, A)
    shelf.errors[B] = [MemoryError()]
    assert use(cache, B) == "load"
    assert counts.evictions == [(A, "memory")]
    shelf.errors[C] = [MemoryError(), MemoryError()]
    with pytest.raises(MemoryError):
        use(cache, C)


def test_the_waiters_of_a_load_are_bounded_and_need_not_wait_for_ever() -> None:
    cache, shelf, _ = make(max_waiters=2)
    shelf.gate.clear()
    first = threading.Thread(target=use, args=(cache, A))
    first.start()
    _until(lambda: cache.state(A)[0] == "loading")
    with (
        pytest.raises(StillLoading, match=r"scene a is still loading after 0\.\d+ s; ask"),
        cache.pinned(A, wait_s=0.05),
    ):
        pass
    second = threading.Thread(target=use, args=(cache, A))
    second.start()
    _until(lambda: cache._slots[A].waiters == 2)
    with pytest.raises(StillLoading, match="2 wait for it already"):
        use(cache, A)
    shelf.gate.set()
    for thread in (first, second):
        thread.join()
    assert (use(cache, A), shelf.loads) == ("hit", [A])


def test_a_load_outlives_the_frames_that_waited_for_it() -> None:
    cache, shelf, counts = make(frame_waits_s=0.3)
    shelf.gate.clear()
    began_s = time.monotonic()
    for _ in range(20):  # together they wait no longer than the first of them
        with pytest.raises(StillLoading, match="ask again"):
            use(cache, A)
    assert 0.3 <= time.monotonic() - began_s < 3.0
    assert cache.state(A)[0] == "loading"
    shelf.gate.set()
    _until(lambda: cache.state(A)[0] == "resident")
    assert (use(cache, A), shelf.loads) == ("hit", [A])
    _until(lambda: cache._slots[A].pins == 0)
    assert counts.misses == 20
    assert cache.drop(A)
    assert cache.draining_bytes() == 0


def test_preloads_come_one_at_a_time_after_frames_and_frames_overtake_them() -> None:
    cache, shelf, counts = make(budget_bytes=200)
    shelf.gate.clear()
    frame = threading.Thread(target=use, args=(cache, A))
    frame.start()
    _until(lambda: shelf.loads == [A])
    assert [cache.warm(scene, "preload") for scene in (B, C, B)] == [("loading", "")] * 3
    time.sleep(0.05)
    assert shelf.loads == [A], "a preload began while a frame waited"
    assert cache.drop(C), "a preload that has not begun can be taken back"
    assert cache.state(C)[0] == "unknown"
    assert cache.warm(C, "preload")[0] == "loading"
    impatient = threading.Thread(target=use, args=(cache, C))
    impatient.start()
    _until(lambda: shelf.loads == [A, C])
    shelf.gate.set()
    for thread in (frame, impatient):
        thread.join()
    _until(lambda: B in cache.resident())
    assert shelf.loads == [A, C, B]
    assert (counts.hits, counts.misses) == (0, 2), "a preload is no look-up"


def test_a_preload_spares_what_frames_use_and_its_failure_is_nobodys() -> None:
    cache, shelf, counts = make(preload_spares_s=0.5, patience_s=0.1)
    use(cache, A)
    use(cache, B)
    cache.warm(C, "preload")
    _until(lambda: C in shelf.loads and cache.state(C)[0] == "unknown")
    assert (set(cache.resident()), counts.evictions) == ({A, B}, [])
    assert use(cache, C) == "load"  # a frame may
    assert set(cache.resident()) == {B, C}
    cache._memory.patience_s = 5.0
    cache.warm(A, "preload")  # waits until C and B were left alone for a while
    _until(lambda: A in cache.resident())
    assert set(cache.resident()) == {C, A}


def test_a_frame_that_comes_while_a_preload_runs_makes_it_its_own() -> None:
    cache, shelf, _ = make()
    shelf.gate.clear()
    cache.warm(A, "preload")
    _until(lambda: shelf.loads == [A])
    results: list[str] = []
    frame = threading.Thread(target=lambda: results.append(use(cache, A)))
    frame.start()
    _until(lambda: cache._slots[A].waiters == 1)
    shelf.gate.set()
    frame.join()
    assert (results, shelf.loads) == (["wait"], [A])


def test_bytes_never_pass_the_budget_under_random_use() -> None:
    cache, _, counts = make(budget_bytes=120)
    scenes = [SceneId(f"s{number}") for number in range(8)]
    cache._load.sizes.update({scene: 10 + 7 * number for number, scene in enumerate(scenes)})  # type: ignore[attr-defined]

    def work(seed: int) -> None:
        random = np.random.default_rng(seed)
        for _ in range(200):
            scene = scenes[int(random.integers(8))]
            if random.random() < 0.1:
                cache.drop(scene)
            use(cache, scene)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert 0 < counts.highest_bytes <= 120
    assert counts.hits + counts.misses == 600
    assert cache.draining_bytes() == 0


def _until(condition: Callable[[], bool]) -> None:
    end_s = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < end_s, "it did not happen in time"
        time.sleep(0.005)
