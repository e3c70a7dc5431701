"""Renderer pods of the local fleet: real Triton processes with real start-up stages, one on a slice of a node.

A pod is asked for, scheduled, waits for its provisioning delay (what a node and an image would take), boots Triton,
loads its scenes and is then ready. It ends by draining: no new requests, then SIGTERM.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path

import httpx2
import numpy as np
import structlog
from prometheus_client.parser import text_string_to_metric_families

from fleet import labels, metrics
from fleet.renderers import Renderer, RenderersFile
from fleet.scene import SceneId
from local_fleet.nodes import POD_PROFILE, LocalNode
from local_fleet.scheduling import Scheduler, Unschedulable, pod_manifest
from local_fleet.triton_server import TritonFailed, TritonServer

log = structlog.get_logger()

STARTING = ("scheduling", "provisioning", "booting")
DRAIN_S = 1.0  # the gateway re-reads the renderers file well within it; Triton finishes what it has queued
BOOT_DEADLINE_S = 60.0
BOOTS_PER_CORE = 2  # at once; about half of a boot is CPU, the rest waits for scenes
PROVISION_SIGMA = 0.2


@dataclass(frozen=True, slots=True)
class PodSettings:
    """What every pod of the pool is started with."""

    pool: str
    catalogue: Path
    backends: Path
    run_folder: Path
    provision_s: float
    frame_floor_s: float
    budget_bytes: int
    fetch_bytes_per_s: float
    frame_size: tuple[int, int]
    seed: int
    agent_urls: Mapping[str, str] = field(default_factory=dict)  # by node: a pod's peers are those of other nodes
    agent_token_file: Path | None = None


@dataclass(slots=True)
class Pod:
    """One pod from the ask to its end; times are of the monotonic clock."""

    uid: str
    scenes: tuple[str, ...]
    asked_s: float
    only_on: str = ""  # the one node where it may go; empty is any
    stage: str = "scheduling"
    node: str = ""
    slice: str = ""
    ready_s: float | None = None
    ended_s: float | None = None
    server: TritonServer | None = None
    stop_asked: threading.Event = field(default_factory=threading.Event)
    stage_s: dict[str, float] = field(default_factory=dict)  # measured seconds of each start-up stage

    @property
    def alive(self) -> bool:
        return self.stage in STARTING or self.stage == "ready"


@dataclass(slots=True)
class Totals:
    """Counters of pods that are gone, so that nothing is lost with them."""

    scene_hits: int = 0
    scene_misses: int = 0
    bytes_fetched: int = 0
    failed_starts: int = 0


class Pods:
    """All pods of one pool; thread-safe. `renderers_file` tells the gateway and the exporters."""

    def __init__(
        self, settings: PodSettings, nodes: Sequence[LocalNode], scheduler: Scheduler, note: Callable[[str], None]
    ) -> None:
        self.settings = settings
        self.nodes = {node.name: node for node in nodes}
        self.renderers_file = settings.run_folder / "renderers.json"
        self.all: dict[str, Pod] = {}
        self.totals = Totals()
        self._scheduler = scheduler
        self._note = note
        self._lock = threading.RLock()
        self._scheduling = threading.Lock()  # kube-scheduler runs one cycle at a time
        self._closing = threading.Event()
        # More at once would make each slower, and those that serve with them: all of them share this machine's cores.
        self._boots = threading.BoundedSemaphore(BOOTS_PER_CORE * len(os.sched_getaffinity(0)))
        # Its threads live until `close`: the kernel ends a Triton process with the thread that forked it.
        self._workers = ThreadPoolExecutor(max_workers=32, thread_name_prefix="pod")
        self._write_renderers()

    def start(self, scenes: Sequence[str], only_on: str = "") -> Future[None]:
        """Ask for one more pod that loads `scenes` before it is ready; returns at once.

        `only_on` names the one node where it may go, as a node selector does.
        """
        with self._lock:
            uid = f"{self.settings.pool}-{len(self.all) + 1:03d}"
            pod = self.all[uid] = Pod(uid, tuple(scenes), time.monotonic(), only_on=only_on)
        return self._workers.submit(self._run, pod)

    def expect(self, shares: Mapping[SceneId, float]) -> None:
        """Tell the scheduler which scenes the demand is forecast for: it places pods by them that name none."""
        self._scheduler.expect(self.settings.pool, shares)

    def stop(self, uid: str) -> None:
        """Drain a pod and end it; a pod that still starts is given up."""
        with self._lock:
            pod = self.all[uid]
            if not pod.alive:
                return
            was_starting = pod.stage in STARTING
            pod.stage = "draining"
            pod.stop_asked.set()
            self._write_renderers()
        if not was_starting:
            self._workers.submit(self._end, pod, DRAIN_S)

    def close(self) -> None:
        """End everything at once and wait for it."""
        self._closing.set()
        with self._lock:
            pods = list(self.all.values())
            for pod in pods:
                pod.stop_asked.set()
        for pod in pods:
            if pod.server is not None and pod.stage != "stopped":
                self._collect(pod)
                pod.server.kill()
        self._workers.shutdown(wait=True, cancel_futures=True)
        for pod in pods:
            if pod.server is not None:
                pod.server.stop(1.0)

    @staticmethod
    def now_s() -> float:
        """The clock of every time that a Pod holds."""
        return time.monotonic()

    def listing(self) -> list[Pod]:
        with self._lock:
            return list(self.all.values())

    def pod_seconds(self, start_s: float, end_s: float) -> float:
        """Seconds between two moments that pods existed, from the ask to the end of their process."""
        return sum(
            max(0.0, min(end_s, pod.ended_s if pod.ended_s is not None else end_s) - max(start_s, pod.asked_s))
            for pod in self.listing()
        )

    def collect_running(self) -> None:
        """Add the counters of pods that still run to the totals; once, at the end of a run."""
        for pod in self.listing():
            if pod.stage == "ready":
                self._collect(pod)

    def free_slices(self) -> dict[str, list[str]]:
        """Free slices of our profile by node; draining pods hold theirs until they ended."""
        with self._lock:
            held = {pod.slice for pod in self.all.values() if pod.ended_s is None}
        return {name: [cut for cut in node.slices(POD_PROFILE) if cut not in held] for name, node in self.nodes.items()}

    def _run(self, pod: Pod) -> None:
        try:
            if self._schedule(pod) and self._wait(pod, self._provision_s(pod)) and self._boot_in_turn(pod):
                return
        except (TritonFailed, OSError, httpx2.HTTPError) as error:
            self.totals.failed_starts += 1
            self._note(f"{pod.uid} failed to start: {error}")
        self._end(pod, 0.0)

    def _schedule(self, pod: Pod) -> bool:
        while not pod.stop_asked.is_set():
            with self._scheduling:
                free = {name: cuts for name, cuts in self.free_slices().items() if cuts and pod.only_on in ("", name)}
                with self._lock:
                    held = [other.node for other in self.all.values() if other.ended_s is None]
                manifest = pod_manifest(pod.uid, self.settings.pool, POD_PROFILE, pod.scenes)
                try:
                    name = self._scheduler.place(manifest, {name: held.count(name) for name in free})
                except Unschedulable as error:
                    log.info("unschedulable", pod=pod.uid, reason=str(error))
                else:
                    with self._lock:
                        pod.node, pod.slice, pod.stage = name, free[name][0], "provisioning"
                    pod.stage_s["schedule"] = time.monotonic() - pod.asked_s
                    self._event("MODIFIED", pod, "Pending")
                    return True
            pod.stop_asked.wait(0.5)
        return False

    def _provision_s(self, pod: Pod) -> float:
        """Nodes and image pulls differ: log-normal about the setting, fixed by seed and number of the pod."""
        number = int(pod.uid.rpartition("-")[2])
        spread = np.random.default_rng((self.settings.seed, number)).lognormal(0.0, PROVISION_SIGMA)
        return self.settings.provision_s * float(spread)

    def _wait(self, pod: Pod, seconds: float) -> bool:
        begun_s = time.monotonic()
        stopped = pod.stop_asked.wait(seconds)
        pod.stage_s["provision"] = time.monotonic() - begun_s
        return not stopped

    def _boot_in_turn(self, pod: Pod) -> bool:
        """Boot when one of the machine's turns is free; until then the pod is one that waits for its machine."""
        while not self._boots.acquire(timeout=0.1):
            if pod.stop_asked.is_set():
                return False
        try:
            return self._boot(pod)
        finally:
            self._boots.release()

    def _boot(self, pod: Pod) -> bool:
        begun_s = time.monotonic()
        folder = self.settings.run_folder / "pods" / pod.uid
        folder.mkdir(parents=True)
        with self._lock:
            if pod.stop_asked.is_set():
                return False
            pod.stage = "booting"
            pod.server = TritonServer(self.settings.backends, folder, self._environment(pod))
        pod.server.start()
        pod.server.wait_ready(BOOT_DEADLINE_S)
        pod.stage_s["boot_and_load"] = time.monotonic() - begun_s
        with self._lock:
            if pod.stop_asked.is_set():
                return False
            pod.stage, pod.ready_s = "ready", time.monotonic()
            self._write_renderers()
        self._event("MODIFIED", pod, "Running")
        return True

    def _end(self, pod: Pod, drain_s: float) -> None:
        if drain_s:
            self._closing.wait(drain_s)
        if pod.server is not None and not self._closing.is_set():
            self._collect(pod)
            pod.server.stop()
        with self._lock:
            pod.stage, pod.ended_s = "stopped", time.monotonic()
            self._write_renderers()
        self._event("DELETED", pod, "Succeeded")

    def _environment(self, pod: Pod) -> dict[str, str]:
        settings = self.settings
        node = self.nodes[pod.node]
        peers = {}
        if settings.agent_token_file is not None:
            peers = {
                labels.SCENE_PEERS_ENV: ",".join(url for name, url in settings.agent_urls.items() if name != pod.node),
                labels.SCENE_AGENT_TOKEN_FILE_ENV: str(settings.agent_token_file),
            }
        return {
            **os.environ,
            **peers,
            labels.SCENES_ENV: ",".join(pod.scenes),
            labels.CATALOGUE_ENV: str(settings.catalogue),
            labels.SCENE_CACHE_ENV: str(node.store),
            labels.STORE_CAPACITY_ENV: str(node.store_capacity_bytes),
            labels.POD_BUDGET_ENV: str(settings.budget_bytes),
            labels.FETCH_LIMIT_ENV: str(int(settings.fetch_bytes_per_s)),
            labels.FRAME_FLOOR_ENV: str(settings.frame_floor_s),
            labels.DEFAULT_SIZE_ENV: "{}x{}".format(*settings.frame_size),
            labels.RASTERIZER_ENV: "cpu",
            "SPLATFLEET_RENDER_THREADS": "1",
            "OMP_NUM_THREADS": "1",
            "NUMBA_NUM_THREADS": "1",
        }

    def _event(self, kind: str, pod: Pod, phase: str) -> None:
        if pod.node:
            self._scheduler.event(
                kind, pod_manifest(pod.uid, self.settings.pool, POD_PROFILE, pod.scenes, pod.node, phase)
            )

    def _collect(self, pod: Pod) -> None:
        if pod.server is None:
            return
        counters = renderer_counters(pod.server.metrics_address)
        with self._lock:
            self.totals.scene_hits += int(counters.get("hit", 0))
            self.totals.scene_misses += int(counters.get("miss", 0))
            self.totals.bytes_fetched += int(counters.get("bytes", 0))

    def _write_renderers(self) -> None:
        rows = tuple(
            Renderer(
                uid=pod.uid,
                pool=self.settings.pool,
                node=pod.node,
                grpc_address=pod.server.grpc_address,
                http_address=pod.server.http_address,
                metrics_address=pod.server.metrics_address,
                ready=pod.stage == "ready",
                draining=pod.stage == "draining",
                budget_bytes=self.settings.budget_bytes,
                slice=pod.slice,
            )
            for pod in self.all.values()
            if pod.server is not None and pod.stage in ("ready", "draining")
        )
        temporary = self.renderers_file.with_suffix(".tmp")
        temporary.write_text(json.dumps(asdict(RenderersFile(rows))))
        temporary.replace(self.renderers_file)


def renderer_counters(metrics_address: str) -> Mapping[str, float]:
    """Hits, misses and bytes fetched of one pod, from its own metrics; empty where it does not answer."""
    try:
        text = httpx2.get(f"http://{metrics_address}/metrics", timeout=1.0).text
    except httpx2.HTTPError:
        return {}
    found: dict[str, float] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.name == metrics.RENDERER_SCENE_REQUESTS.name:
                found[sample.labels["result"]] = sample.value
            elif sample.name == metrics.RENDERER_FETCHED_BYTES.name:
                found["bytes"] = sample.value
    return found
