"""A scene of over a gigabyte from its source to a frame: seconds of each step, and the most memory that a pod took."""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import psutil
from prometheus_client.parser import text_string_to_metric_families

from benchmarks.machine import describe
from fleet import labels, metrics
from fleet.scene import SceneId
from local_fleet.triton_files import DEFAULT_BACKENDS
from local_fleet.triton_server import TritonServer, build_backends
from renderer import made
from renderer.camera import look_at, matrices
from renderer.catalogue import Catalogue, CatalogueEntry, save_catalogue
from renderer.client import Parameter, render_once
from renderer.formats import ply
from renderer.splats import Splats, make_splats, resident_bytes

_SCENE = SceneId("large")
_LOOK_S = 0.02
_MADE_AT_ONCE = 250_000
_TIMEOUT_S = 280.0


@dataclass(frozen=True, slots=True)
class Figures:
    """`peak_ratio` is the pod's largest resident size (the model's process) over the scene's resident bytes."""

    gaussians: int
    source_bytes: int
    resident_bytes: int
    make_s: float
    first_frame_s: float  # from the source through store and cache; nothing of the scene was on the node
    first_load_s: float
    frame_s: float  # once resident
    packed_after_s: float  # until the packed layout lay beside the source
    second_pod_first_frame_s: float  # from the packed layout; the scene's source was taken away before
    second_pod_load_s: float
    second_pod_fetched_bytes: int
    second_pod_parses: int  # loads that were not from the packed layout
    idle_bytes: int  # of the model's process before
    peak_bytes: int
    peak_ratio: float
    second_pod_peak_ratio: float


class _Peak:
    """Looks at the resident size of a process all the while."""

    def __init__(self, pid: int) -> None:
        self._process = psutil.Process(pid)
        self.bytes = self.idle_bytes = self._process.memory_info().rss
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def _watch(self) -> None:
        with contextlib.suppress(psutil.NoSuchProcess):
            while not self._ended.wait(_LOOK_S):
                self.bytes = max(self.bytes, self._process.memory_info().rss)

    def end(self) -> None:
        self._ended.set()
        self._thread.join()


def measure(gaussians: int, size: tuple[int, int], say: Callable[[str], None]) -> Figures:
    """Make the scene, give it to one pod and then to another; raises TritonUnavailable or TritonFailed."""
    with tempfile.TemporaryDirectory(prefix="splatfleet-bench-") as name:
        folder = Path(name)
        say(f"making {gaussians:,} Gaussians of SH degree 3")
        began_s = time.monotonic()
        ply.write(folder / "scene.ply", _planet(gaussians))
        make_s = time.monotonic() - began_s
        say(f"made and written in {make_s:.1f} s")
        save_catalogue(Catalogue([CatalogueEntry(_SCENE, (folder / "scene.ply").as_uri())]), folder / "catalogue.json")
        need = resident_bytes(gaussians, 3)
        say("first pod: from the source")
        with _pod(folder, "first", need) as server:
            peak = _Peak(_model_pid(server))
            first_s, load_s = _frame(server, size)
            say(f"first frame after {first_s:.1f} s, {load_s:.1f} s of them loading; peak {peak.bytes / need:.3f}")
            frame_s, _ = _frame(server, size)
            packed_s = _until_packed(folder / "store")
            peak.end()
            say(f"a frame {frame_s:.2f} s, packed {packed_s:.1f} s later; peak {peak.bytes / need:.3f} x {need:,}")
        source_bytes = (folder / "scene.ply").stat().st_size
        (folder / "scene.ply").unlink()
        say("second pod: from the packed layout, the source is gone")
        with _pod(folder, "second", need) as server:
            second = _Peak(_model_pid(server))
            second_s, second_load_s = _frame(server, size)
            second.end()
            fetched_bytes, parses = _fetched_and_parsed(server)
            say(
                f"first frame after {second_s:.1f} s, {second_load_s:.1f} s of them loading; "
                f"{fetched_bytes} bytes fetched, {parses} parses; peak {second.bytes / need:.3f}"
            )
        return Figures(
            gaussians,
            source_bytes,
            need,
            make_s,
            first_s,
            load_s,
            frame_s,
            packed_s,
            second_s,
            second_load_s,
            fetched_bytes,
            parses,
            peak.idle_bytes,
            peak.bytes,
            peak.bytes / need,
            second.bytes / need,
        )


def _planet(gaussians: int) -> Splats:
    """A made planet, repeated in shells inside one another: made at once it takes minutes of a busy machine."""
    shells = -(-gaussians // _MADE_AT_ONCE)
    one = made.make("planet", gaussians // shells, sh_degree=3)
    centre = np.array(made.TARGET, np.float32)
    sizes = np.linspace(1.0, 0.5, shells, dtype=np.float32)
    return make_splats(
        np.concatenate([centre + size * (one.means - centre) for size in sizes]),
        np.tile(one.quaternions, (shells, 1)),
        np.concatenate([size * one.scales for size in sizes]),
        np.tile(one.opacities, shells),
        np.tile(one.sh, (shells, 1, 1)),
    )


def _pod(folder: Path, name: str, need_bytes: int) -> TritonServer:
    environment = {
        labels.CATALOGUE_ENV: str(folder / "catalogue.json"),
        labels.SCENE_CACHE_ENV: str(folder / "store"),
        labels.STORE_CAPACITY_ENV: str(1 << 36),
        labels.POD_BUDGET_ENV: str(need_bytes),
        labels.RASTERIZER_ENV: "cpu",
    }
    server = TritonServer(build_backends(DEFAULT_BACKENDS), folder / name, environment)
    server.start()
    server.wait_ready()
    return server


def _model_pid(server: TritonServer) -> int:
    (stub,) = psutil.Process(server.pid).children()
    return int(stub.pid)


def _frame(server: TritonServer, size: tuple[int, int]) -> tuple[float, float]:
    """(seconds of a frame at the client, seconds of loading in it)."""
    camera = look_at(made.EYE, made.TARGET, made.UP, 50, *size)
    parameters: dict[str, Parameter] = {"scene": _SCENE, "width": size[0], "height": size[1], "format": "jpeg"}
    began_s = time.monotonic()
    stats = render_once(server.grpc_address, *matrices(camera), parameters, timeout_s=_TIMEOUT_S).stats
    return time.monotonic() - began_s, stats["load_s"]


def _fetched_and_parsed(server: TritonServer) -> tuple[int, int]:
    """(bytes that a pod fetched, loads from something else than a packed layout) by its own metrics."""
    with urllib.request.urlopen(f"http://{server.metrics_address}/metrics", timeout=10) as answer:
        families = list(text_string_to_metric_families(answer.read().decode()))
    found = [sample for family in families for sample in family.samples]
    loads = f"{metrics.RENDERER_SCENE_LOAD_SECONDS.name}_count"
    fetched = sum(sample.value for sample in found if sample.name == metrics.RENDERER_FETCHED_BYTES.name)
    by_source = {sample.labels["source"]: sample.value for sample in found if sample.name == loads}
    if sum(by_source.values()) != 1:
        raise RuntimeError(f"the pod told of {by_source} loads, expected one")
    return int(fetched), int(by_source.get("remote", 0) + by_source.get("disk", 0))


def _until_packed(store: Path) -> float:
    began_s = time.monotonic()
    while not list(store.glob("objects/*/packed")) and time.monotonic() - began_s < _TIMEOUT_S:
        time.sleep(0.05)
    return time.monotonic() - began_s


def main(gaussians: int, say: Callable[[str], None], json_path: Path | None = None) -> int:
    """Print the figures; 1 where a pod took over 1.3 times what the scene takes, or the second fetched or parsed."""
    machine = describe()
    found = measure(gaussians, (512, 512), say)
    print(
        f"{machine.cpu}, {machine.cpus} CPUs, load {machine.load_average_1min:.2f} before, "
        f"{os.getloadavg()[0]:.2f} after"
    )
    for name, value in asdict(found).items():
        print(f"{name.replace('_', ' '):<28}{value:>18,.2f}" if isinstance(value, float) else f"{name:<28}{value:>18,}")
    if json_path is not None:
        json_path.write_text(json.dumps({"machine": asdict(machine), **asdict(found)}, indent=1) + "\n")
    is_large = max(found.peak_ratio, found.second_pod_peak_ratio) > 1.3
    return int(is_large or bool(found.second_pod_fetched_bytes) or bool(found.second_pod_parses))
