"""A renderer pod without its server: requests in, frames and stats out. Triton calls it (model.py)."""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from fleet.scene import SceneId, SceneIdError
from kube.tls import ClientTls, TlsError
from renderer import constants
from renderer.camera import Camera, CameraError, camera_from_matrices, look_at
from renderer.catalogue import CatalogueEntry, CatalogueError, LiveCatalogue, UnknownScene
from renderer.credentials import BearerTokens, CredentialError
from renderer.encoding import Pixels, encode, to_host, to_pixels
from renderer.fetch_progress import TELL_EVERY_S, downloads, told
from renderer.peers import Peers
from renderer.pod_settings import PodSettings
from renderer.rasterizer import DeviceRasterizer, RasterizerUnavailable, choose
from renderer.request import BadRequest, Defaults, RenderRequest, parse_request
from renderer.scene_cache import Pin, SceneCache, StillLoading
from renderer.scene_memory import CacheWatcher, OverBudget
from renderer.scene_store import FetchFailed, SceneStore
from renderer.splats import SceneFileError, Splats, make_splats
from renderer.store_space import StoreFull, StoreHeld
from renderer.stored_scene import StoredScene

NO_PIXELS: Pixels = np.zeros((0, 0, 3), np.uint8)
FRAME_WAITS_S = 10.0  # for its scene; meanwhile the pod, whose frames come one by one, answers nobody else
LOAD_ERRORS = (FetchFailed, StoreFull, SceneFileError, OverBudget, MemoryError)


class DeadlinePassed(Exception):
    """A frame that nobody wants any more; it was not rendered."""


class LoadFailed(Exception):
    """A scene that could not be brought into memory; says why."""


class CannotStart(Exception):
    """A pod that must not become Ready; one line that says why."""


class PodWatcher(CacheWatcher, Protocol):
    """Who counts what a pod does."""

    def loaded(self, source: str, seconds: float) -> None: ...

    def rendered(self, seconds: float) -> None: ...

    def fetched(self, count_bytes: int) -> None: ...

    def peer_fetched(self, count_bytes: int) -> None: ...

    def quarantined(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Answer:
    """What one request gets; the picture is in `pixels` or in `encoded`, the other is empty."""

    stats: dict[str, Any]
    pixels: Any = field(default_factory=lambda: NO_PIXELS)  # or a picture in device memory
    encoded: bytes = b""


class RendererPod:
    """Scene store, scene cache and rasterizer behind one call; `answer` may be called from several threads."""

    def __init__(self, settings: PodSettings, watcher: PodWatcher, room_wait_s: float = 10.0) -> None:
        """Open the store and load the pod's scenes; raises CannotStart.

        A frame's load waits at most `room_wait_s` while neighbours hold all that could make room on the disk; a start
        waits as long as its startup probe lets it.
        """
        self._watcher = watcher
        self._starting = True
        self._frame_floor_s = settings.frame_floor_s
        try:
            self._live = LiveCatalogue(settings.catalogue)
            self._rasterize = choose(settings.rasterizer)
            self._device = self._rasterize if isinstance(self._rasterize, DeviceRasterizer) else None
            self._store = SceneStore(
                settings.store,
                settings.store_capacity_bytes,
                settings.fetch_bytes_per_s,
                watcher.fetched,
                peers=_peers(settings, watcher),
                roots=settings.roots,
                on_quarantined=watcher.quarantined,
                room_wait_s=room_wait_s,
            )
        except (CatalogueError, CredentialError, TlsError, RasterizerUnavailable, OSError) as error:
            raise CannotStart(str(error)) from error
        self.cache: SceneCache[Splats] = SceneCache(
            settings.budget_bytes, self._load, watcher, frame_waits_s=FRAME_WAITS_S
        )
        width, height = settings.default_size
        self._defaults = Defaults(self._default_scene(settings), width, height)
        began_s = time.monotonic()
        self._warm_up()
        warmed_s = time.monotonic()
        with told(self._store.layout, _say, TELL_EVERY_S):
            self._load_first(settings.scenes)
        self._starting = False
        self.start_up_s = {"kernels": warmed_s - began_s, "scenes": time.monotonic() - warmed_s}

    def _default_scene(self, settings: PodSettings) -> SceneId | None:
        chosen = settings.default_scene or next(iter([*settings.scenes, *self._live.current().entries]), None)
        if chosen is not None:
            self._check_known(chosen)
        return chosen

    def _check_known(self, scene: SceneId) -> None:
        try:
            self._live.current().get(scene)
        except UnknownScene as error:
            raise CannotStart(str(error)) from error

    def _warm_up(self) -> None:
        """One tiny frame of no scene: kernels and codecs that were compiled or loaded by it work."""
        one = np.ones((1, 3), np.float32)
        splats = make_splats(one * 0, np.ones((1, 4), np.float32), one * 0.1, np.ones(1, np.float32), one[:, None])
        camera = look_at((0, 0, -2), (0, 0, 0), (0, -1, 0), 50, 8, 8)
        frame = self._rasterize(splats, camera, (0.0, 0.0, 0.0), None, frozenset({"rgb", "depth"}), self._constants)
        encode(to_pixels(frame, "rgb")[0], "jpeg", 85)

    def _load_first(self, scenes: tuple[SceneId, ...]) -> None:
        for scene in scenes:
            self._check_known(scene)
        for scene in scenes:
            self.cache.load(scene)
            state, why = self.cache.state(scene)
            if state == "failed":
                raise CannotStart(f"scene {scene} cannot be loaded: {why}")
        held = self.cache.resident()
        if lost := [scene for scene in scenes if scene not in held]:
            raise CannotStart(
                f"scenes {', '.join(scenes)} do not fit together into the pod's budget of "
                f"{self.cache.budget_bytes} bytes ({', '.join(lost)} had to go)"
            )

    def _load(self, scene: SceneId, reserve: Callable[[int], None]) -> Splats:
        """From wherever it lies into memory; the packed layout is written behind the first frame's back."""
        began_s = time.monotonic()
        entry = self._live.current().get(scene)
        try:
            stored, splats = self._read(entry, lambda stored: reserve(stored.record.resident_bytes))
            if self._device is not None:
                self._device.upload(splats)
        except SceneFileError:
            self._store.evict(scene)  # a broken file takes no room
            raise
        if not stored.record.packed_bytes:
            threading.Thread(target=self._pack, args=(stored, splats), name=f"pack-{scene}", daemon=True).start()
        self._watcher.loaded(stored.stage, time.monotonic() - began_s)
        return splats

    def _read(self, entry: CatalogueEntry, admit: Callable[[StoredScene], None]) -> tuple[StoredScene, Splats]:
        while True:
            try:
                return self._store.read(entry, admit)
            except StoreHeld as held:  # by neighbours that a busy machine made slow; the locks are let go between tries
                if not self._starting:
                    raise
                _say(f"{held}; waiting for them")

    def _pack(self, stored: StoredScene, splats: Splats) -> None:
        try:
            self._store.add_packed(stored, splats)
        except OSError as error:
            _say(f"scene {stored.id} was not packed: {error}")

    def answer(self, parameters: Mapping[str, Any], view: NDArray[Any], projection: NDArray[Any]) -> Answer:
        """Render, warm, drop or check.

        Raises BadRequest (parameters, scene id or camera), DeadlinePassed, StillLoading or LoadFailed.
        """
        began_s, arrived_unix_ms = time.monotonic(), time.time() * 1000
        try:
            request = parse_request(parameters, self._defaults)
            if request.action == "check":
                self._warm_up()
                return Answer({"state": "alive", "service_s": time.monotonic() - began_s, "fetching": self._fetching()})
            if request.action != "render":
                return self._act(request, began_s)
            self._live.current().get(request.scene)
            camera = camera_from_matrices(view, projection, request.width, request.height)
        except (SceneIdError, UnknownScene, CameraError) as error:
            raise BadRequest(str(error)) from error
        _refuse_late(request, arrived_unix_ms)
        try:
            with self.cache.pinned(request.scene, request.left_s(arrived_unix_ms, time.time() * 1000)) as pin:
                load_s = time.monotonic() - began_s if pin.result != "hit" else 0.0
                _refuse_late(request, arrived_unix_ms)
                answer = self._frame(request, camera, pin, load_s)
        except StillLoading:
            _refuse_late(request, arrived_unix_ms)
            raise
        except LOAD_ERRORS as error:
            raise LoadFailed(f"scene {request.scene}: {error}") from error
        self._pace(answer.stats, began_s)
        return answer

    def _fetching(self) -> dict[str, dict[str, int]]:
        """How far the downloads into the node's store are, by scene."""
        found = downloads(self._store.layout).items()
        return {scene: {"done_bytes": done, "total_bytes": total} for scene, (done, total) in found}

    @property
    def _constants(self) -> constants.Constants:
        return constants.DEFAULT if self._device is None else self._device.constants

    def _draw(self, request: RenderRequest, splats: Splats, camera: Camera) -> tuple[Any, dict[str, float]]:
        """The picture, in device memory where it was drawn there, and what is needed to read it back."""
        if self._device is not None and request.layers == "rgb":
            return self._device.picture(splats, camera, request.background, request.sh_degree), {}
        layers = frozenset({"rgb", request.layers})
        frame = self._rasterize(splats, camera, request.background, request.sh_degree, layers, self._constants)
        return to_pixels(frame, request.layers)

    def _encode(self, request: RenderRequest, pixels: Any) -> bytes:
        """The file that was asked for; nothing for raw pixels."""
        if request.format == "raw":
            return b""
        if isinstance(pixels, np.ndarray):
            return encode(pixels, request.format, request.quality)
        if request.format == "jpeg" and self._device is not None and self._device.jpeg is not None:
            return self._device.jpeg(pixels, request.quality)
        return encode(to_host(pixels), request.format, request.quality)

    def _frame(self, request: RenderRequest, camera: Camera, pin: Pin[Splats], load_s: float) -> Answer:
        began_s = time.monotonic()
        splats = pin.value
        if request.gaussian_budget is not None:
            splats = dataclasses.replace(splats, budget=request.gaussian_budget)
        pixels, scale = self._draw(request, splats, camera)
        rendered_s = time.monotonic()
        encoded = self._encode(request, pixels)
        ended_s = time.monotonic()
        self._watcher.rendered(ended_s - began_s)
        stats: dict[str, Any] = {
            "scene": request.scene,
            "state": "resident",
            "cache": pin.result,
            "load_s": load_s,
            "render_s": rendered_s - began_s,
            "encode_s": ended_s - rendered_s,
            "gaussians": min(splats.count, splats.budget or splats.count),
            "width": request.width,
            "height": request.height,
            **scale,
        }
        if request.client_time_ms is not None:
            stats["client_time_ms"] = request.client_time_ms
        return Answer(stats, NO_PIXELS if encoded else pixels, encoded)

    def _act(self, request: RenderRequest, began_s: float) -> Answer:
        message = ""
        try:
            self._live.current().get(request.scene)
        except UnknownScene as error:
            state, message = "unknown", str(error)
        else:
            if request.action == "warm":
                state, message = self.cache.warm(request.scene, "preload" if request.preload else "demand")
            else:
                self.cache.drop(request.scene)
                state, message = self.cache.state(request.scene)
        stats: dict[str, Any] = {"scene": request.scene, "state": state, "message": message}
        if request.client_time_ms is not None:
            stats["client_time_ms"] = request.client_time_ms
        stats["service_s"] = time.monotonic() - began_s
        return Answer(stats)

    def _pace(self, stats: dict[str, Any], began_s: float) -> None:
        """Occupy the pod for the frame floor; `paced_s` owns up to the time that was slept."""
        if self._frame_floor_s > 0:
            worked_s = time.monotonic() - began_s - stats["load_s"]
            paced_s = max(0.0, self._frame_floor_s - worked_s)
            time.sleep(paced_s)
            stats["paced_s"] = paced_s
        stats["service_s"] = time.monotonic() - began_s


def _peers(settings: PodSettings, watcher: PodWatcher) -> Peers | None:
    if not settings.peers:
        return None
    tokens = BearerTokens(settings.agent_token_file)
    tokens.all()  # a fault is told now
    return Peers(
        settings.peers, tokens, watcher.peer_fetched, ClientTls(settings.peer_ca) if settings.peer_ca else None
    )


def _refuse_late(request: RenderRequest, arrived_unix_ms: float) -> None:
    now_unix_ms = time.time() * 1000
    if request.is_late(arrived_unix_ms, now_unix_ms):
        raise DeadlinePassed(f"deadline_ms is {request.deadline_ms:.0f}, it is {now_unix_ms:.0f}; not rendered")


def _say(text: str) -> None:
    print(f"splatfleet: {text}", flush=True)
