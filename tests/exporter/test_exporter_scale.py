"""Large stores: what did not change costs little, and the answer stays right."""

from __future__ import annotations

import time
from collections.abc import Callable

from exporter.collector import NodeCollector
from exporter.exposition import Exposition, SceneText
from exporter.reading import NodeReading
from exporter.sources import Sources
from fleet.digest import CachedScene
from tests.exporter.surroundings import Store

SERIES = 20_000


def _fastest_s(call: Callable[[], object], repeats: int = 5) -> float:
    times = []
    for _ in range(repeats):
        start_s = time.perf_counter()
        call()
        times.append(time.perf_counter() - start_s)
    return min(times)


def test_lines_of_20_000_scenes_are_kept() -> None:
    scenes = tuple(CachedScene(f"scene-{index:05d}", "a" * 64, index, 0.0) for index in range(SERIES))
    kept = SceneText()
    text = kept.of(scenes)
    assert text.count(b"\n") == SERIES + 2
    used = tuple(CachedScene(scene.id, scene.digest, scene.bytes, 1.0) for scene in scenes)
    assert kept.of(used) is text, "use alone builds nothing"
    kept.of(scenes)
    assert _fastest_s(lambda: kept.of(scenes)) * 3 < _fastest_s(lambda: SceneText().of(scenes))
    assert kept.of(scenes[1:]).count(b"\n") == SERIES + 1
    assert kept.of(()) == b""


async def test_a_scrape_of_an_unchanged_store_is_far_cheaper_than_the_first(store: Store) -> None:
    for index in range(4_000):
        store.put(f"scene-{index:04d}", index + 1)
    collector, exposition = NodeCollector(Sources("n", scene_cache=store.root, deadline_s=30), 0.0), Exposition()

    async def scrape() -> tuple[float, NodeReading, bytes]:
        start_s = time.perf_counter()
        reading = await collector.collect()
        body, _ = exposition.render(reading, "")
        return time.perf_counter() - start_s, reading, body

    first_s, _, first_body = await scrape()
    time.sleep(0.1)  # until the folder is older than a tick of the clock
    await scrape()
    later_s = min([(await scrape())[0] for _ in range(5)])
    assert later_s * 3 < first_s
    store.evict("scene-0000")
    store.put("scene-0001", 77)
    _, reading, body = await scrape()
    assert len(reading.digest.scene_cache.scenes) == 3_999
    assert b'scene_bytes{scene="scene-0001"} 77\n' in body
    assert b'"scene-0000"' in first_body
    assert b'"scene-0000"' not in body
    await collector.close()
