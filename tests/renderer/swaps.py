"""Random swaps between scenes that do not fit together, in a process of its own: `python -m tests.renderer.swaps N`.

Real files, real arrays, four callers; prints one line of JSON. The resident size is looked at after each swap.
"""

from __future__ import annotations

import json
import random
import resource
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path

from benchmarks.renderer_loads import cloud
from benchmarks.uncounted import Uncounted
from fleet.scene import SceneId
from renderer import packed
from renderer.scene_cache import SceneCache
from renderer.scene_memory import Cause
from renderer.splats import Splats

CALLERS = 4
GAUSSIANS = (30_000, 31_000, 32_000, 33_000, 34_000, 35_000)  # 8 to 9 MB each; any three fit, four do not


class Highest(Uncounted):
    """The most that was resident and draining at any moment, and how often what was evicted."""

    def __init__(self) -> None:
        self.held_bytes = 0
        self.evictions = 0

    def changed(self, resident: object, draining_bytes: int) -> None:
        assert isinstance(resident, dict)
        self.held_bytes = max(self.held_bytes, sum(resident.values()) + draining_bytes)

    def evicted(self, scene: object, cause: Cause | object) -> None:
        self.evictions += 1


def rss_bytes() -> int:
    """The resident size of this process now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def swap(loads: int, folder: Path) -> dict[str, int]:
    """Use scenes at random until so many were loaded; the figures."""
    files = {}
    for count in GAUSSIANS:
        files[SceneId(f"s{count}")] = folder / str(count)
        packed.write(cloud(count, 3), folder / str(count))
    sizes = {scene: packed.read_packed_header(path).payload_bytes for scene, path in files.items()}
    seen: list[int] = []

    def load(scene: SceneId, reserve: Callable[[int], None]) -> Splats:
        reserve(sizes[scene])
        seen.append(rss_bytes())
        return packed.read(files[scene])

    highest = Highest()
    cache: SceneCache[Splats] = SceneCache(int(3.01 * max(sizes.values())), load, highest)

    def use(scene: SceneId) -> None:
        """As a frame does: nothing of the scene outlives the call."""
        with cache.pinned(scene) as pin:
            assert pin.value.nbytes == sizes[scene]

    def work(seed: int) -> None:
        chosen = random.Random(seed)
        while len(seen) < loads:
            use(chosen.choice(list(files)))
            if chosen.random() < 0.05:
                cache.drop(chosen.choice(list(files)))

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(CALLERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return {
        "loads": len(seen),
        "evictions": highest.evictions,
        "budget_bytes": cache.budget_bytes,
        "highest_bytes": highest.held_bytes,
        "draining_bytes": cache.draining_bytes(),
        "rss_first_200_bytes": max(seen[:200]),
        "rss_peak_bytes": max(seen),
    }


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(prefix="splatfleet-swaps-") as name:
        print(json.dumps(swap(int(sys.argv[1]), Path(name))))
