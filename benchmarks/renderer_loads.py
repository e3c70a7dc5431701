"""How long a scene takes into memory, by format; what the store and the cache add."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.uncounted import Uncounted
from fleet.scene import SceneId
from renderer import packed
from renderer.catalogue import CatalogueEntry
from renderer.formats import ply, read, read_header, splat
from renderer.scene_cache import SceneCache
from renderer.scene_store import SceneStore
from renderer.splats import Splats, coefficients, make_splats

_LOOK_UPS = 20_000
_REAL = {"sog-v2": "playbot/0_0", "sog-v1": "playcanvas-logo"}


@dataclass(frozen=True, slots=True)
class LoadRow:
    """One format, from the page cache."""

    format: str
    gaussians: int
    sh_degree: int
    disk_bytes: int
    load_ms: float  # median


@dataclass(frozen=True, slots=True)
class StoreRow:
    """One thing that the node's store or the pod's cache does with the scene."""

    what: str
    ms: float  # median


def cloud(gaussians: int, sh_degree: int) -> Splats:
    """Random Gaussians: as slow to load as a trained scene, and made in no time."""
    rng = np.random.default_rng(1)
    return make_splats(
        rng.normal(0, 1, (gaussians, 3)).astype(np.float32),
        rng.normal(0, 1, (gaussians, 4)).astype(np.float32),
        np.exp(rng.normal(-5, 0.5, (gaussians, 3))).astype(np.float32),
        rng.uniform(0.1, 0.9, gaussians).astype(np.float32),
        rng.normal(0, 0.2, (gaussians, coefficients(sh_degree), 3)).astype(np.float32),
    )


def measure(
    folder: Path, scenes_dir: Path | None, gaussians: int, rounds: int, say: Callable[[str], None]
) -> tuple[list[LoadRow], list[StoreRow]]:
    """Files of so many Gaussians of SH degree 3 are written to the folder and read from the page cache."""
    say(f"loads: {gaussians:,} Gaussians of SH degree 3")
    splats = cloud(gaussians, 3)
    files = {"ply": folder / "cloud.ply", "packed": folder / "cloud.packed", "splat": folder / "cloud.splat"}
    ply.write(files["ply"], splats)
    packed.write(splats, files["packed"])
    splat.write(files["splat"], splats)
    del splats
    rows = [
        _row("ply", files["ply"], lambda: ply.read(files["ply"]), rounds),
        _row("packed", files["packed"], lambda: packed.read(files["packed"]), rounds),
        # As a file of somebody else's: its sha256 and every value are checked.
        _row("packed-verified", files["packed"], lambda: read(files["packed"]), rounds),
        _row("splat", files["splat"], lambda: read(files["splat"]), rounds),
    ]
    for name, path in _REAL.items():
        if scenes_dir is not None and (scenes_dir / path).is_dir():
            say(f"loads: {name} of {path}")
            rows.append(_row(name, scenes_dir / path, lambda path=path: read(scenes_dir / path), rounds))  # type: ignore[misc]
    say("store and cache")
    return rows, [*_store(folder, files["ply"], rounds), *_cache(files["packed"], rounds)]


def _row(name: str, path: Path, load: Callable[[], Splats], rounds: int) -> LoadRow:
    header = read_header(path)
    return LoadRow(name, header.gaussians, header.sh_degree, header.disk_bytes, _median_ms(load, rounds))


def _median_ms(call: Callable[[], object], rounds: int) -> float:
    times_s = []
    for _ in range(rounds):
        began_s = time.perf_counter()
        call()
        times_s.append(time.perf_counter() - began_s)
    return 1e3 * statistics.median(times_s)


def _store(folder: Path, source: Path, rounds: int) -> list[StoreRow]:
    """The node's store: a fetch (copied, synced, verified), the pack, and loads of what lies there."""
    store = SceneStore(folder / "store", 1 << 40)
    entry = CatalogueEntry(SceneId("cloud"), source.as_uri())

    def fetch() -> None:
        store.evict(entry.id)
        store.ensure(entry, pack=False)

    def load() -> None:
        with store.opened(entry, pack=False) as stored:
            stored.read()

    rows = [
        StoreRow("store: fetch of a local source, synced", _median_ms(fetch, rounds)),
        StoreRow("store: load of the source", _median_ms(load, rounds)),
        StoreRow("store: packed layout written, synced", _median_ms(lambda: store.ensure(entry, pack=True), 1)),
        StoreRow("store: load of the packed layout", _median_ms(load, rounds)),
    ]
    os.sync()
    return rows


def _cache(file: Path, rounds: int) -> list[StoreRow]:
    """The pod's cache: a look-up, and what a swap costs beyond the load of the scene that comes."""
    loads_s: list[float] = []
    header = read_header(file)
    files = {SceneId(name): file for name in "ab"}

    def load(scene: SceneId, reserve: Callable[[int], None]) -> Splats:
        reserve(header.resident_bytes)
        began_s = time.perf_counter()
        splats = packed.read(files[scene])
        loads_s.append(time.perf_counter() - began_s)
        return splats

    cache: SceneCache[Splats] = SceneCache(int(1.5 * header.resident_bytes), load, Uncounted())

    def use(scene: str) -> None:
        with cache.pinned(SceneId(scene)):
            pass

    use("a")
    began_s = time.perf_counter()
    for _ in range(_LOOK_UPS):
        use("a")
    look_up_ms = 1e3 * (time.perf_counter() - began_s) / _LOOK_UPS
    beyond_ms = []
    for turn in range(2 * rounds):
        swap_ms = _median_ms(lambda turn=turn: use("ba"[turn % 2]), 1)  # type: ignore[misc]
        beyond_ms.append(swap_ms - 1e3 * loads_s[-1])
    return [
        StoreRow("cache: look-up of a resident scene", look_up_ms),
        StoreRow("cache: swap beyond the load itself", statistics.median(beyond_ms)),
    ]
