"""The exporter with 20,000 scenes in its store: milliseconds per scrape over HTTP, memory of the process.

The goal: a scrape within 30 ms and 60 MB more than with an empty store.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path

import msgspec

from fleet.digest import DIGEST_PATH
from fleet.scene import SceneId, SceneRecord, StoreLayout, StoreRecord

SCENES = 20_000
GOAL_SCRAPE_MS = 30.0
GOAL_GROWTH_MB = 60.0
_REPEATS = 25


@dataclass(frozen=True, slots=True)
class Row:
    """Scrapes of one kind."""

    what: str
    p50_ms: float
    p95_ms: float
    body_bytes: int


def _write(path: Path, record: SceneRecord | StoreRecord) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    temporary.write_bytes(msgspec.json.encode(record))
    os.replace(temporary, path)


def _record(index: int, last_used_s: float = 0.0) -> SceneRecord:
    scene = f"scene-{index:05d}"
    return SceneRecord(scene, sha256(scene.encode()).hexdigest(), 400_000_000 + index, 0, 0, 0, last_used_s)


def _put(layout: StoreLayout, index: int, last_used_s: float = 0.0) -> None:
    record = _record(index, last_used_s)
    _write(layout.scene_file(SceneId(record.id)), record)


@contextmanager
def _exporter(store: Path) -> Iterator[tuple[str, int]]:
    """The URL and the process id of an exporter of `store`."""
    command = [sys.executable, "-m", "splatfleet", "exporter", "--node", "bench"]
    process = subprocess.Popen(
        [*command, "--scene-cache", str(store), "--listen", "127.0.0.1:0"], stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        yield "http://" + line.split("http://")[1].split("/")[0], process.pid
    finally:
        process.terminate()
        process.wait(10)


def _resident_mb(pid: int) -> float:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) / 1024


def _measure(what: str, url: str, before: Callable[[int], None] = lambda _: None) -> Row:
    times_ms = []
    size = 0
    for repeat in range(_REPEATS):
        before(repeat)
        start_s = time.perf_counter()
        with urllib.request.urlopen(url) as answer:
            size = len(answer.read())
        times_ms.append((time.perf_counter() - start_s) * 1e3)
    return Row(what, statistics.median(times_ms), statistics.quantiles(times_ms, n=20)[-1], size)


def main(json_path: Path | None = None) -> int:
    """Print the table; write it to `json_path` where one is given. Returns 1 where the goal is missed."""
    with tempfile.TemporaryDirectory() as folder:
        layout = StoreLayout(Path(folder))
        _write(layout.store_file, StoreRecord(10**14, 0.0, 0.0))
        with _exporter(layout.root) as (url, pid):
            _measure("empty store", f"{url}/metrics")
            _measure("empty store, digest", url + DIGEST_PATH)
            empty_mb = _resident_mb(pid)
        for index in range(SCENES):
            _put(layout, index)
        with _exporter(layout.root) as (url, pid):
            time.sleep(0.1)  # until the store's folder is older than a tick of the clock
            metrics = f"{url}/metrics"
            rows = [
                _measure("nothing changed", metrics),
                _measure("a scene was used", metrics, lambda n: _put(layout, n, last_used_s=1.0 + n)),
                _measure("a scene came", metrics, lambda n: _put(layout, SCENES + n)),
                _measure("digest, nothing changed", url + DIGEST_PATH),
                _measure("digest, a scene came", url + DIGEST_PATH, lambda n: _put(layout, 2 * SCENES + n)),
            ]
            growth_mb = _resident_mb(pid) - empty_mb
    load = os.getloadavg()[0]
    machine = (
        f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, load average {load:.2f}"
    )
    print(f"Exporter, {SCENES} scenes in the store ({machine})\n")
    print(f"{'scrape':26} {'p50 ms':>8} {'p95 ms':>8} {'MB':>6}")
    for row in rows:
        print(f"{row.what:26} {row.p50_ms:8.1f} {row.p95_ms:8.1f} {row.body_bytes / 1e6:6.2f}")
    print(f"\nmemory: {empty_mb:.0f} MB with an empty store, {growth_mb:.0f} MB more with {SCENES} scenes")
    good = rows[0].p50_ms <= GOAL_SCRAPE_MS and growth_mb <= GOAL_GROWTH_MB
    print(f"goal: a scrape in {GOAL_SCRAPE_MS:g} ms and {GOAL_GROWTH_MB:g} MB: {'met' if good else 'MISSED'}")
    if json_path is not None:
        figures = {
            "machine": machine, "scenes": SCENES, "rows": [asdict(row) for row in rows],
            "empty_mb": empty_mb, "growth_mb": growth_mb, "goal_met": good,
        }  # fmt: skip
        json_path.write_text(json.dumps(figures, indent=1))
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
