"""The node's scene store: real files, real HTTP, real processes, real kills."""

from __future__ import annotations

import dataclasses
import http.server
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from fleet.scene import SceneId, parse_scene_id
from renderer.catalogue import Catalogue, CatalogueEntry, save_catalogue
from renderer.formats import ply
from renderer.pod import RendererPod
from renderer.pod_settings import PodSettings
from renderer.scene_source import combined_digest, digest_of
from renderer.scene_store import FetchFailed, NotStored, SceneStore
from renderer.splats import SceneFileError, Splats
from renderer.store_files import read_json, tree_bytes
from renderer.store_space import StoreFull
from tests.renderer.scenes import Uncounted, random_splats

REPOSITORY = Path(__file__).resolve().parents[2]
MIB = 1 << 20


def make_scene(path: Path, gaussians: int = 500, seed: int = 0) -> Splats:
    splats = random_splats(np.random.default_rng(seed), gaussians, 1)
    ply.write(path, splats)
    return splats


def entry_of(path: Path, scene: str | None = None, digest: str | None = None) -> CatalogueEntry:
    return CatalogueEntry(parse_scene_id(scene or path.stem), path.as_uri(), digest)


def in_flight(store: SceneStore) -> list[str]:
    return sorted(path.name for path in store.layout.fetching.iterdir())


@pytest.fixture
def scenes(tmp_path: Path) -> list[CatalogueEntry]:
    """Four scenes of about 80 kB."""
    folder = tmp_path / "scenes"
    folder.mkdir()
    for number in range(4):
        make_scene(folder / f"s{number}.ply", 800, seed=number)
    return [entry_of(path) for path in sorted(folder.iterdir())]


def size_of(entry: CatalogueEntry) -> int:
    return Path(entry.uri.removeprefix("file://")).stat().st_size


def test_fetch_packs_and_says_so(tmp_path: Path) -> None:
    splats = make_scene(tmp_path / "ball.ply")
    fetched: list[int] = []
    store = SceneStore(tmp_path / "store", 10 * MIB, on_fetched=fetched.append)
    entry = entry_of(tmp_path / "ball.ply", digest=digest_of(tmp_path / "ball.ply"))
    stored = store.ensure(entry)
    assert (stored.stage, stored.record.gaussians, stored.record.digest) == ("remote", 500, entry.digest)
    assert fetched == [size_of(entry)] == [stored.record.source_bytes]
    assert stored.record.resident_bytes == splats.nbytes < stored.record.packed_bytes
    assert in_flight(store) == []
    with store.open(entry.id) as held:
        assert held.stage == "packed"
        np.testing.assert_array_equal(held.read().means, splats.means)
    again = store.ensure(entry)
    assert again.stage == "packed"
    assert len(fetched) == 1
    known = read_json(store.layout.store_file)
    assert known is not None
    assert known["fetch_bytes_per_s"] > 0
    assert known["capacity_bytes"] == 10 * MIB


def test_disk_only_prefetch_leaves_the_source_alone(tmp_path: Path, scenes: list[CatalogueEntry]) -> None:
    store = SceneStore(tmp_path / "store", 10 * MIB)
    stored = store.ensure(scenes[0], pack=False)
    assert stored.record.packed_bytes == 0
    assert not stored.packed.exists()
    assert store.ensure(scenes[0]).record.packed_bytes > 0, "a later ask packs it"
    assert [record.id for record in store.records()] == ["s0"]


def test_damaged_packed_layout_falls_back_to_the_source(tmp_path: Path) -> None:
    splats = make_scene(tmp_path / "ball.ply")
    store = SceneStore(tmp_path / "store", 10 * MIB)
    stored = store.ensure(entry_of(tmp_path / "ball.ply"))
    stored.packed.write_bytes(stored.packed.read_bytes()[:-9])
    with store.open(stored.id) as held:
        np.testing.assert_array_equal(held.read().means, splats.means)


def test_least_recently_used_goes_first(tmp_path: Path, scenes: list[CatalogueEntry]) -> None:
    store = SceneStore(tmp_path / "store", int(2.5 * size_of(scenes[0])))
    for entry in (scenes[0], scenes[1]):
        store.ensure(entry, pack=False)
    _used_seconds_ago(store, "s0", 10)
    _used_seconds_ago(store, "s1", 20)
    store.ensure(scenes[2], pack=False)
    assert [record.id for record in store.records()] == ["s0", "s2"]
    assert sum(1 for path in store.layout.objects.iterdir() if path.is_dir()) == 2


def test_a_pod_that_starts_waits_for_slow_neighbours_and_does_not_end(
    tmp_path: Path, scenes: list[CatalogueEntry], capsys: pytest.CaptureFixture[str]
) -> None:
    """On a machine that is busy a neighbour reads for long: the start takes longer, and is no crash loop."""
    capacity_bytes = int(1.5 * size_of(scenes[0]))
    save_catalogue(Catalogue(scenes), tmp_path / "catalogue.json")
    store = SceneStore(tmp_path / "store", capacity_bytes)
    store.ensure(scenes[0], pack=False)
    first = PodSettings(tmp_path / "catalogue.json", tmp_path / "store", scenes=(scenes[1].id,), rasterizer="cpu")
    settings = dataclasses.replace(first, store_capacity_bytes=capacity_bytes)
    with ThreadPoolExecutor(1) as starting:
        with store.open(scenes[0].id):
            start = starting.submit(RendererPod, settings, Uncounted(), room_wait_s=0.1)
            tries, end_s = 0, time.monotonic() + 60.0
            while tries < 3:
                assert not start.done(), start.result()
                assert time.monotonic() < end_s
                tries += capsys.readouterr().out.count("waiting for them")
                time.sleep(0.05)
        pod = start.result(60.0)
    assert list(pod.cache.resident()) == [scenes[1].id]
    with store.open(scenes[1].id):
        pod.cache.load(scenes[2].id)
    state, why = pod.cache.state(scenes[2].id)
    assert (state, "held" in why) == ("failed", True), "a frame is told after a while"


def test_what_is_open_is_never_evicted(tmp_path: Path, scenes: list[CatalogueEntry]) -> None:
    store = SceneStore(tmp_path / "store", int(1.5 * size_of(scenes[0])), room_wait_s=0.2)
    store.ensure(scenes[0], pack=False)
    with store.open(scenes[0].id) as held:
        assert not store.evict(scenes[0].id)
        with pytest.raises(StoreFull, match=r"scene s1 needs \d+ bytes; of \d+ in .* \d+ are held"):
            store.ensure(scenes[1], pack=False)
        assert held.read().count == 800
    store.ensure(scenes[1], pack=False)
    assert [record.id for record in store.records()] == ["s1"]


def test_a_fetch_waits_for_a_reader_to_make_room(tmp_path: Path, scenes: list[CatalogueEntry]) -> None:
    store = SceneStore(tmp_path / "store", int(1.5 * size_of(scenes[0])), room_wait_s=20.0)
    store.ensure(scenes[0], pack=False)
    with ThreadPoolExecutor(1) as worker, store.open(scenes[0].id):
        fetched = worker.submit(store.ensure, scenes[1], False)
        time.sleep(0.3)
        assert not fetched.done()
        with store.open(scenes[0].id):
            time.sleep(0.1)
        assert not fetched.done()  # the first reader still holds it
    assert fetched.result(20.0).stage == "remote"
    assert [record.id for record in store.records()] == ["s1"]


def test_packed_layout_takes_free_room_only(tmp_path: Path, scenes: list[CatalogueEntry]) -> None:
    store = SceneStore(tmp_path / "store", int(2.5 * size_of(scenes[0])))
    store.ensure(scenes[0], pack=False)
    stored = store.ensure(scenes[1])
    assert stored.record.packed_bytes == 0
    assert len(store.records()) == 2, "packing evicted a scene"


def test_scene_larger_than_the_store_is_refused_before_a_byte(tmp_path: Path, scenes: list[CatalogueEntry]) -> None:
    fetched: list[int] = []
    store = SceneStore(tmp_path / "store", size_of(scenes[0]) - 1, on_fetched=fetched.append)
    with pytest.raises(StoreFull, match=f"scene s0 has {size_of(scenes[0])} bytes"):
        store.ensure(scenes[0])
    assert fetched == []
    assert in_flight(store) == []


def test_evict_and_open_of_what_is_not_there(tmp_path: Path, scenes: list[CatalogueEntry]) -> None:
    store = SceneStore(tmp_path / "store", 10 * MIB)
    assert not store.evict(SceneId("s0"))
    with pytest.raises(NotStored, match="scene s0"), store.open(SceneId("s0")):
        pass
    store.ensure(scenes[0])
    assert store.evict(SceneId("s0"))
    assert store.records() == ()
    assert [path for path in store.layout.objects.iterdir() if path.is_dir()] == []


def test_two_ids_share_one_object(tmp_path: Path) -> None:
    make_scene(tmp_path / "a.ply")
    shutil.copy(tmp_path / "a.ply", tmp_path / "b.ply")
    store = SceneStore(tmp_path / "store", 10 * MIB)
    first, second = (store.ensure(entry_of(tmp_path / name)) for name in ("a.ply", "b.ply"))
    assert first.folder == second.folder
    store.evict(first.id)
    with store.open(second.id) as held:
        assert held.read().count == 500
    store.evict(second.id)
    assert not second.folder.exists()


def test_wrong_digest_leaves_nothing(tmp_path: Path) -> None:
    make_scene(tmp_path / "ball.ply")
    store = SceneStore(tmp_path / "store", 10 * MIB)
    with pytest.raises(FetchFailed, match=f"scene ball: .*sha256 is [0-9a-f]{{64}}, the catalogue says {'0' * 64}"):
        store.ensure(entry_of(tmp_path / "ball.ply", digest="0" * 64))
    assert store.records() == ()
    assert in_flight(store) == []


@pytest.mark.parametrize("keep_bytes", [0, 40, 30_000])
def test_truncated_scene_leaves_nothing(tmp_path: Path, keep_bytes: int) -> None:
    make_scene(tmp_path / "ball.ply")
    broken = tmp_path / "broken.ply"
    broken.write_bytes((tmp_path / "ball.ply").read_bytes()[:keep_bytes])
    store = SceneStore(tmp_path / "store", 10 * MIB)
    with pytest.raises(SceneFileError, match=r"broken.ply"):
        store.ensure(entry_of(broken))
    assert store.records() == ()
    assert in_flight(store) == []


def test_changed_catalogue_digest_fetches_anew(tmp_path: Path) -> None:
    store = SceneStore(tmp_path / "store", 10 * MIB)
    for seed in (1, 2):
        splats = make_scene(tmp_path / "ball.ply", seed=seed)
        entry = entry_of(tmp_path / "ball.ply", digest=digest_of(tmp_path / "ball.ply"))
        with store.opened(entry) as held:
            np.testing.assert_array_equal(held.read().means, splats.means)


def test_missing_source_and_refused_connection_are_named(tmp_path: Path, free_port: int) -> None:
    store = SceneStore(tmp_path / "store", 10 * MIB)
    with pytest.raises(FetchFailed, match=r"scene gone: file://.*gone.ply: there is no such file"):
        store.ensure(entry_of(tmp_path / "gone.ply"))
    uri = f"http://127.0.0.1:{free_port}/a.ply"
    with pytest.raises(FetchFailed, match=f"scene a: {uri}"):
        store.ensure(CatalogueEntry(SceneId("a"), uri))
    assert in_flight(store) == []


def test_bandwidth_cap_is_kept_and_shared(tmp_path: Path, scenes: list[CatalogueEntry]) -> None:
    """Two stores on one root are two pods of one node: together they stay below the cap."""
    rate = 4 * size_of(scenes[0])
    pods = [SceneStore(tmp_path / "store", 10 * MIB, fetch_bytes_per_s_limit=rate) for _ in range(2)]
    began_s = time.monotonic()
    threads = [threading.Thread(target=pods[i].ensure, args=(scenes[i], False)) for i in range(2)]
    for thread in threads:
        thread.start()
    time.sleep(0.25)
    beats = [read_json(path) for path in pods[0].layout.fetching.glob("*.json")]
    for thread in threads:
        thread.join()
    took_s = time.monotonic() - began_s
    assert took_s >= 0.9 * 2 / 4, "both scenes together passed the cap"
    assert len(pods[0].records()) == 2
    assert {beat["id"] for beat in beats if beat} == {"s0", "s1"}
    assert all(beat and beat["total_bytes"] == size_of(scenes[0]) for beat in beats)


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[Path, str, list[str]]]:
    """A folder behind a plain HTTP server (no ranges) and the list of its requests."""
    folder = tmp_path / "www"
    folder.mkdir()
    asked: list[str] = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *arguments: object) -> None:
            super().__init__(*arguments, directory=str(folder))  # type: ignore[arg-type]

        def log_message(self, *_: object) -> None:
            asked.append(self.requestline)

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    yield folder, f"http://127.0.0.1:{server.server_port}", asked
    server.shutdown()
    server.server_close()
    thread.join()


def test_http_file_with_a_difficult_name(tmp_path: Path, served: tuple[Path, str, list[str]]) -> None:
    folder, url, _ = served
    splats = make_scene(folder / "a ball+1.ply")
    store = SceneStore(tmp_path / "store", 10 * MIB)
    with store.opened(CatalogueEntry(SceneId("ball"), f"{url}/a%20ball+1.ply")) as held:
        np.testing.assert_array_equal(held.read().means, splats.means)
    with pytest.raises(FetchFailed, match=r"scene none: .*/none.ply: there is no such file"):
        store.ensure(CatalogueEntry(SceneId("none"), f"{url}/none.ply"))


def test_sog_folder_over_http_and_file_have_one_digest(
    tmp_path: Path, served: tuple[Path, str, list[str]], data_dir: Path
) -> None:
    source = data_dir / "scenes" / "playbot" / "6_0"
    folder, url, _ = served
    shutil.copytree(source, folder / "bot")
    (folder / "bot" / "README.txt").write_text("not a part of the scene")
    by_file = SceneStore(tmp_path / "one", 10 * MIB).ensure(CatalogueEntry(SceneId("bot"), source.as_uri()))
    by_http = SceneStore(tmp_path / "two", 10 * MIB).ensure(CatalogueEntry(SceneId("bot"), f"{url}/bot/"))
    by_meta = SceneStore(tmp_path / "six", 10 * MIB).ensure(CatalogueEntry(SceneId("bot"), f"{url}/bot/meta.json"))
    assert by_file.record.digest == by_http.record.digest == by_meta.record.digest == digest_of(source)
    assert not (by_http.source / "README.txt").exists()
    assert by_http.record.gaussians == 1873


def test_digest_of_a_folder_is_as_written_down() -> None:
    import hashlib

    digests = {"b": "2" * 64, "a": "1" * 64}
    text = f"a\0{'1' * 64}\nb\0{'2' * 64}\n"
    assert combined_digest(digests) == hashlib.sha256(text.encode()).hexdigest()


def test_meta_json_cannot_reach_out_of_its_folder(tmp_path: Path, served: tuple[Path, str, list[str]]) -> None:
    folder, url, asked = served
    (folder / "evil").mkdir()
    (folder / "evil" / "meta.json").write_text(json.dumps({"means": {"files": ["../../secret"]}}))
    (folder / "secret").write_text("secret")
    with pytest.raises(FetchFailed, match=r"files names '../../secret', expected a plain file name"):
        SceneStore(tmp_path / "store", MIB).ensure(CatalogueEntry(SceneId("evil"), f"{url}/evil/"))
    assert not any("secret" in line for line in asked)


def test_disk_full_is_said_and_leaves_nothing(tmp_path: Path) -> None:
    """RLIMIT_FSIZE in a process of its own: a write fails as on a full disk."""
    make_scene(tmp_path / "big.ply", 20_000)
    store = SceneStore(tmp_path / "store", 100 * MIB)

    child = _ensure_in_process(tmp_path, entry_of(tmp_path / "big.ply"), largest_file_bytes=MIB // 2)
    _, complaint = child.communicate(timeout=60)
    assert child.returncode == 3
    assert "StoreFull" in complaint
    assert f"the disk under {tmp_path / 'store'} is full" in complaint
    assert store.records() == ()
    assert in_flight(store) == []
    assert store.ensure(entry_of(tmp_path / "big.ply")).record.gaussians == 20_000


def test_tmpfs_that_is_full(tmp_path: Path) -> None:
    make_scene(tmp_path / "big.ply", 20_000)
    mount = tmp_path / "tmpfs"
    mount.mkdir()
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=600k", "none", mount], capture_output=True, check=False
    ).returncode:
        pytest.skip("a tmpfs cannot be mounted here; RLIMIT_FSIZE stands in")
    try:
        store = SceneStore(mount / "store", 100 * MIB)
        with pytest.raises(StoreFull, match=r"is full .No space left on device"):
            store.ensure(entry_of(tmp_path / "big.ply"))
        assert store.records() == ()
        assert in_flight(store) == []
    finally:
        subprocess.run(["umount", mount], check=True)


def test_killed_download_is_resumed(tmp_path: Path) -> None:
    splats = make_scene(tmp_path / "big.ply", 20_000)
    entry = entry_of(tmp_path / "big.ply", digest=digest_of(tmp_path / "big.ply"))
    total = size_of(entry)
    child = _ensure_in_process(tmp_path, entry, bytes_per_s=total / 3)
    store = SceneStore(tmp_path / "store", 100 * MIB)
    source = store.layout.fetching / f"{entry.digest}.part" / "source"
    _wait_for(lambda: source.exists() and source.stat().st_size > total / 5)
    child.send_signal(signal.SIGKILL)
    child.communicate()
    assert store.records() == (), "half a scene is visible"
    had = source.stat().st_size
    fetched: list[int] = []
    stored = SceneStore(tmp_path / "store", 100 * MIB, on_fetched=fetched.append).ensure(entry)
    assert fetched == [total - had]
    np.testing.assert_array_equal(stored.read().means, splats.means)
    assert in_flight(store) == []


def test_killed_download_starts_over_where_the_server_cannot_resume(
    tmp_path: Path, served: tuple[Path, str, list[str]]
) -> None:
    folder, url, _ = served
    splats = make_scene(folder / "big.ply", 20_000)
    entry = CatalogueEntry(SceneId("big"), f"{url}/big.ply")
    total = (folder / "big.ply").stat().st_size
    child = _ensure_in_process(tmp_path, entry, bytes_per_s=total / 3)
    store = SceneStore(tmp_path / "store", 100 * MIB)
    _wait_for(lambda: any(path.stat().st_size > total / 5 for path in store.layout.fetching.glob("*.part/source")))
    child.send_signal(signal.SIGKILL)
    child.communicate()
    with store.opened(entry) as held:
        np.testing.assert_array_equal(held.read().means, splats.means)
    assert in_flight(store) == []


def test_source_that_changed_under_a_killed_download(tmp_path: Path) -> None:
    make_scene(tmp_path / "big.ply", 20_000, seed=1)
    entry = entry_of(tmp_path / "big.ply")
    child = _ensure_in_process(tmp_path, entry, bytes_per_s=size_of(entry) / 3)
    store = SceneStore(tmp_path / "store", 100 * MIB)
    _wait_for(lambda: any(path.stat().st_size > 9999 for path in store.layout.fetching.glob("*.part/source")))
    child.send_signal(signal.SIGKILL)
    child.communicate()
    splats = make_scene(tmp_path / "big.ply", 20_000, seed=2)
    with store.opened(entry) as held:
        np.testing.assert_array_equal(held.read().means, splats.means)


def test_dead_download_is_swept_for_room(tmp_path: Path, scenes: list[CatalogueEntry]) -> None:
    store = SceneStore(tmp_path / "store", int(1.5 * size_of(scenes[0])))
    dead = store.layout.fetching / f"{'1' * 64}.part"
    dead.mkdir()
    (dead / "source").write_bytes(bytes(size_of(scenes[0])))
    store.ensure(scenes[0], pack=False)
    assert not dead.exists()


def test_two_processes_do_one_download(tmp_path: Path) -> None:
    make_scene(tmp_path / "big.ply", 20_000)
    entry = entry_of(tmp_path / "big.ply")
    children = [_ensure_in_process(tmp_path, entry, bytes_per_s=2 * size_of(entry)) for _ in range(3)]
    answers = [child.communicate(timeout=60) for child in children]
    assert [complaint for _, complaint in answers] == [""] * 3
    told = [json.loads(answer) for answer, _ in answers]
    assert sorted(each["fetched_bytes"] for each in told) == [0, 0, size_of(entry)]
    assert len({each["packed_inode"] for each in told}) == 1


def test_threads_do_one_download(tmp_path: Path, scenes: list[CatalogueEntry]) -> None:
    fetched: list[int] = []
    store = SceneStore(tmp_path / "store", 10 * MIB, fetch_bytes_per_s_limit=MIB, on_fetched=fetched.append)
    threads = [threading.Thread(target=store.ensure, args=(scenes[0],)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert fetched == [size_of(scenes[0])]


def test_capacity_holds_under_many_hands(tmp_path: Path, scenes: list[CatalogueEntry]) -> None:
    """Threads fetch, read and evict at random; the bytes on disk never pass the capacity and nothing breaks."""
    capacity = int(2.2 * size_of(scenes[0]))
    store = SceneStore(tmp_path / "store", capacity)
    faults: list[BaseException] = []
    done = threading.Event()
    highest = [0]

    def watch() -> None:
        while not done.wait(0.005):
            highest[0] = max(highest[0], _bytes_on_disk(store))

    def work(seed: int) -> None:
        random = np.random.default_rng(seed)
        try:
            for _ in range(12):
                entry = scenes[int(random.integers(4))]
                try:
                    with store.opened(entry, pack=False) as held:
                        assert held.read().count == 800
                except StoreFull:
                    continue  # all others were being read
        except BaseException as error:
            faults.append(error)

    watcher = threading.Thread(target=watch)
    watcher.start()
    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    done.set()
    watcher.join()
    assert faults == []
    assert 0 < highest[0] <= capacity
    assert in_flight(store) == []


def _used_seconds_ago(store: SceneStore, scene: str, seconds: float) -> None:
    path = store.layout.scene_file(SceneId(scene))
    record = json.loads(path.read_text())
    path.write_text(json.dumps({**record, "last_used_s": time.time() - seconds}))


def _bytes_on_disk(store: SceneStore) -> int:
    """Objects first: a download that is renamed meanwhile is missed, never counted twice."""
    total = 0
    for root in (store.layout.objects, store.layout.fetching):
        for folder, _, files in os.walk(root):
            if ".trash" not in folder:
                paths = [Path(folder) / name for name in files if name == "source"]
                total += sum(tree_bytes(path) for path in paths)
    return total


def _wait_for(condition: object, deadline_s: float = 20.0) -> None:
    end_s = time.monotonic() + deadline_s
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < end_s, "it did not happen in time"
        time.sleep(0.01)


_CHILD = """
import json, resource, sys
from pathlib import Path
from renderer.catalogue import load_catalogue
from renderer.scene_store import SceneStore
root, catalogue, rate, largest = Path(sys.argv[1]), Path(sys.argv[2]), float(sys.argv[3]), int(sys.argv[4])
if largest:
    resource.setrlimit(resource.RLIMIT_FSIZE, (largest, largest))
entry = next(iter(load_catalogue(catalogue).entries.values()))
try:
    stored = SceneStore(root, 100 << 20, rate or None).ensure(entry)
except Exception as error:
    print(f"{type(error).__name__}: {error}", file=sys.stderr)
    sys.exit(3)
print(json.dumps({"fetched_bytes": stored.fetched_bytes, "packed_inode": stored.packed.stat().st_ino}))
"""


def _ensure_in_process(
    folder: Path, entry: CatalogueEntry, bytes_per_s: float = 0.0, largest_file_bytes: int = 0
) -> subprocess.Popen[str]:
    catalogue = folder / "catalogue.json"
    save_catalogue(Catalogue([entry]), catalogue)
    return subprocess.Popen(
        [
            sys.executable,
            "-c",
            _CHILD,
            str(folder / "store"),
            str(catalogue),
            str(bytes_per_s),
            str(largest_file_bytes),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
    )
