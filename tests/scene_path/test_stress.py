"""Four processes, one store, random operations, kills in between (SPLATFLEET_STRESS_OPERATIONS for more of them)."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from renderer.catalogue import Catalogue, save_catalogue
from renderer.scene_source import digest_of
from renderer.scene_store import SceneStore
from renderer.store_files import tree_bytes
from tests.scene_path.agents import REPOSITORY, entry_of, make_scene

OPERATIONS = int(os.environ.get("SPLATFLEET_STRESS_OPERATIONS", "240"))
PROCESSES = 4


@pytest.mark.timeout(1200)
def test_random_operations_of_four_processes_keep_the_invariants(tmp_path: Path) -> None:
    entries = []
    for number in range(6):
        make_scene(tmp_path / f"s{number}.ply", 400 + 300 * number, seed=number)
        entries.append(entry_of(tmp_path / f"s{number}.ply"))
    save_catalogue(Catalogue(entries), tmp_path / "catalogue.json")
    capacity_bytes = int(1.2 * sum(entry.source_bytes or 0 for entry in entries))
    root = tmp_path / "store"
    command = [sys.executable, "-m", "tests.scene_path.store_stress", root, tmp_path / "catalogue.json", capacity_bytes]

    def start(seed: int, operations: int) -> subprocess.Popen[str]:
        parts = [*map(str, command), str(operations), str(seed)]
        return subprocess.Popen(parts, cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    workers = [start(seed, OPERATIONS // PROCESSES) for seed in range(PROCESSES)]
    victim = start(99, 1_000_000)
    highest_bytes = kills = 0
    while any(worker.poll() is None for worker in workers):
        highest_bytes = max(highest_bytes, bytes_on_disk(root))
        time.sleep(0.02)
        if kills < 20 and root.exists() and time.monotonic() % 1.5 < 0.1:
            victim.send_signal(signal.SIGKILL)
            victim.communicate()
            kills += 1
            victim = start(100 + kills, 1_000_000)
    victim.kill()
    victim.communicate()
    answers = [worker.communicate() for worker in workers]
    assert [errors for _, errors in answers] == [""] * PROCESSES
    counts = sum((Counter(json.loads(out)) for out, _ in answers), Counter[str]())
    print(
        f"{sum(counts.values())} operations, {kills} kills, at most {highest_bytes} of {capacity_bytes} bytes: {counts}"
    )
    assert sum(counts.values()) == OPERATIONS // PROCESSES * PROCESSES
    assert counts["open"] > 0
    assert 0 < highest_bytes <= capacity_bytes
    locks_are_free(root)
    store = SceneStore(root, capacity_bytes)
    digests = {entry.id: entry.digest for entry in entries}
    for record in store.records():
        assert record.digest == digests[record.id] == digest_of(store.layout.object_dir(record.digest) / "source")  # type: ignore[index]
    for entry in entries:
        store.ensure(entry)


def bytes_on_disk(root: Path) -> int:
    """Objects first: a download that is renamed meanwhile is missed, never counted twice."""
    if not (root / "fetching").exists():
        return 0
    total = 0
    for folder in (root / "objects", root / "fetching"):
        for below in list(folder.iterdir()):
            if below.is_dir() and below.suffix != ".trash":
                total += sum(tree_bytes(below / name) for name in ("source", "packed"))
    return total


def locks_are_free(root: Path) -> None:
    """No lock outlives its process."""
    for path in root.rglob("*.lock"):
        with path.open("ab") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
