"""kill -9 before every write, fsync and rename of a fetch and a pack: visible whole or not at all, and healed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.scene_path.agents import REPOSITORY, entry_of, make_scene

# Forks, so that the imports are paid once: a child is killed at its n-th step, another looks at what it left.
_DRIVER = """
import json, os, signal, sys, traceback
from pathlib import Path
from renderer.catalogue import CatalogueEntry
from renderer.scene_source import digest_of
from renderer.scene_store import SceneStore
from renderer.store_space import StoreFull

entry = CatalogueEntry(**json.loads(sys.argv[2]))
left = 0

def killing(call):
    def step(*arguments, **options):
        global left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return call(*arguments, **options)
    return step

def in_child(work):
    pid = os.fork()
    if pid == 0:
        code = 70
        try:
            work()
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    return os.waitpid(pid, 0)[1]

def fetch():
    SceneStore(root, 100_000_000).ensure(entry)

def damage():
    SceneStore(root, 100_000_000).ensure(entry, pack=False)
    source = SceneStore(root, 100_000_000).layout.object_dir(entry.digest) / "source"
    raw = bytearray(source.read_bytes())
    raw[len(raw) // 2] ^= 1
    source.write_bytes(raw)

def read():
    SceneStore(root, 100_000_000).read(entry, lambda stored: None)

def fetch_until_killed():
    for name in ("fsync", "pwrite", "ftruncate"):
        setattr(os, name, killing(getattr(os, name)))
    for name in ("rename", "replace", "unlink", "write_text"):
        setattr(Path, name, killing(getattr(Path, name)))
    read() if is_damaged else fetch()

def check():
    seen = SceneStore(root, 100_000_000)
    if is_damaged:
        read()
    for record in seen.records():
        assert record.digest == digest_of(seen.layout.object_dir(record.digest) / "source") == entry.digest
        with seen.open(record.id) as held:
            held.read()
    fetch()
    assert [record.digest for record in seen.records()] == [entry.digest]
    with seen.open(entry.id) as held:
        assert held.stage == "packed", held
    for left in seen.layout.fetching.glob(".*.tmp"):
        os.utime(left, (0, 0))
    SceneStore(root, 100_000_000)
    assert list(seen.layout.fetching.iterdir()) == []
    assert [path.name for path in seen.layout.object_dir(entry.digest).iterdir()
            if path.name not in ("source", "packed")] == []

steps, seen_after_kill = 0, []
is_damaged = len(sys.argv) > 3
while True:
    steps += 1
    left, root = steps, Path(sys.argv[1]) / str(steps)
    if is_damaged:
        assert in_child(damage) == 0  # not here: threads of a client library do not live on in children
    status = in_child(fetch_until_killed)
    if status == 0:
        break
    assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL, (steps, status)
    seen_after_kill.append(len(SceneStore(root, 100_000_000).records()))
    assert in_child(check) == 0, f"killed at step {steps}"
print(json.dumps({"steps": steps - 1, "visible": seen_after_kill}))
"""


def steps_of(tmp_path: Path, *flags: str) -> dict[str, Any]:
    """Kill before each step in turn and check after each; raises where a check fails."""
    make_scene(tmp_path / "ball.ply", 4_000)
    entry = entry_of(tmp_path / "ball.ply")
    told = {"id": entry.id, "uri": entry.uri, "digest": entry.digest, "source_bytes": entry.source_bytes}
    done = subprocess.run(
        [sys.executable, "-c", _DRIVER, str(tmp_path / "stores"), json.dumps(told), *flags],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    figures: dict[str, Any] = json.loads(done.stdout)
    assert figures["steps"] >= 12, "the steps were not seen"
    return figures


def test_killed_at_every_step_of_fetch_pack_and_rename(tmp_path: Path) -> None:
    figures = steps_of(tmp_path)
    assert set(figures["visible"]) == {0, 1}, "no kill before it was visible, or none after"
    assert figures["visible"] == sorted(figures["visible"]), "what was visible once is gone"


def test_killed_at_every_step_of_putting_aside_and_fetching_again(tmp_path: Path) -> None:
    figures = steps_of(tmp_path, "damaged")
    assert set(figures["visible"]) == {0, 1}, "the damaged object was never out of sight, or nothing came after it"
