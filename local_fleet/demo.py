"""The main job on one machine: real Triton pods render, our own cores scale and place them, traffic is replayed.

`play` plays one demo to its scorecard. Everything that it starts ends with it, also on an error and on Ctrl-C.
"""

from __future__ import annotations

import contextlib
import math
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import httpx2
import numpy as np
import structlog
from rich.console import Console

from autoscaler.boosting import Refitter
from autoscaler.loop import Behavior, ForecastSettings, Memory, Mode, Objective, Pool, tick
from autoscaler.scrape import DirectScrape
from fleet.traffic import RateTrace, TraceError, popularity_order
from kube.errors import KubeError
from local_fleet.calibration import Fit, fit
from local_fleet.child import Child, verb_child
from local_fleet.cluster import LocalCluster
from local_fleet.first_visitor import FirstVisitors, Premieres, Visits, make_premieres
from local_fleet.live import LiveView
from local_fleet.load import FrameRecord
from local_fleet.machine import MachineLoad, describe, wait_until_quiet
from local_fleet.moments import moment
from local_fleet.nodes import make_nodes
from local_fleet.orbits import encode_bodies, orbit_of
from local_fleet.pods import Pods, PodSettings
from local_fleet.replay import BIN_S, DemoTraffic, demo_traffic, read_trace, write_trace
from local_fleet.report import FrameSample, Run, write_report
from local_fleet.scenes import DemoScenes, gather
from local_fleet.scheduling import ExtenderScheduler, Scheduler, SpreadScheduler
from local_fleet.scorecard import RunTotals, Scorecard, read_records, read_scorecard, score, to_json
from local_fleet.scorecard_table import compare, render_table, spoilt
from local_fleet.stack import Stack, start_stack
from local_fleet.timeline import Timeline
from local_fleet.triton_files import DEFAULT_BACKENDS
from local_fleet.triton_server import TritonUnavailable, build_backends
from renderer.agent_client import AgentClient
from renderer.credentials import BearerTokens
from renderer.splats import SceneFileError

POOL = "renderer"
LOG_PROCESSORS: list[structlog.typing.Processor] = [
    structlog.processors.TimeStamper(fmt="iso"),
    structlog.processors.JSONRenderer(),
]
ZIPF_EXPONENT = 1.0
WAIT_OBJECTIVE_S = 0.5
START_DELAY_S = 2.5  # the load client imports and plans in this time
LAST_ANSWERS_S = 30.0


@dataclass(frozen=True, slots=True)
class DemoSettings:
    """What a demo is told; the flags of `splatfleet demo`."""

    scenes: Path | None = None
    include_all: bool = False
    trace: Path | None = None
    duration_s: float = 120.0
    kubernetes: bool = False  # under a real control plane; `hpa` and `default` are what it does alone
    autoscaler: Literal["predictive", "reactive", "hpa"] = "predictive"
    placement: Literal["scenes", "spread", "default"] = "scenes"
    warm_up: Literal["on", "off"] = "on"
    seed: int = 1
    mean_rate_per_s: float = 25.0
    frame_floor_s: float = 0.15
    provision_s: float = 3.0
    fetch_bytes_per_s: float = 4e6
    max_pods: int = 18
    visit_lead_s: float = 60.0  # the first visitor of a new scene is predicted so long before; 0 is no such visit
    report: Path | None = None
    json_file: Path | None = None
    compare: Path | None = None
    keep: bool = False
    quiet_wait_s: float = 30.0  # at most so long for other programs to leave the machine to the demo
    frame_size: tuple[int, int] | None = None  # absent: the largest that this machine bears
    backends: Path = DEFAULT_BACKENDS


class DemoFailed(Exception):
    """A demo that could not be played to its end; one line with the reason."""


def play(settings: DemoSettings, console: Console | None = None) -> Scorecard:
    """Play a demo, print its scorecard, write what was asked for; raises DemoFailed.

    Everything that it starts has ended when this returns or raises, Ctrl-C included.
    """
    console = console or Console()
    try:
        other = read_scorecard(settings.compare) if settings.compare is not None else None
        if other is not None and settings.frame_size is None:
            settings = replace(settings, frame_size=other.frame_size)
        with contextlib.ExitStack() as stack:
            with LiveView(console) as view:
                run = _run_of(Play(settings, view, stack))
            if settings.json_file is not None:
                settings.json_file.write_text(to_json(run.scorecard) + "\n")
            console.print(render_table(run.scorecard))
            if said := spoilt(run.scorecard):
                console.print(said, style="bold yellow", soft_wrap=True)
            if other is not None:
                console.print(compare(run.scorecard, other))
            if settings.report is not None:
                console.print(f"report: {write_report(settings.report, run)}", soft_wrap=True)
            return run.scorecard
    except (TraceError, SceneFileError, TritonUnavailable, KubeError, OSError, ValueError, RuntimeError) as error:
        raise DemoFailed(str(error)) from error


def _run_of(stage: Play) -> Run:
    if not stage.settings.kubernetes:
        return stage.to_the_end()
    from local_fleet.kubernetes.demo import KubernetesPlay

    return KubernetesPlay(stage).to_the_end()


def _prepare(settings: DemoSettings, folder: Path, view: LiveView) -> tuple[DemoTraffic, DemoScenes, Fit]:
    """Scenes and traffic, fitted to this machine; raises ValueError and OSError for what cannot be used."""
    trace: RateTrace | None = read_trace(settings.trace) if settings.trace is not None else None
    scenes = gather(settings.scenes, settings.include_all, folder, settings.seed, view.note)
    total_mb = sum(scenes.resident_bytes.values()) / 1e6
    view.note(f"{len(scenes.ids)} scenes, {total_mb:.0f} MB once loaded")
    traffic = demo_traffic(trace, settings.duration_s, settings.mean_rate_per_s, settings.seed)
    cores = len(os.sched_getaffinity(0))
    measured = fit(scenes, popularity(scenes.ids, settings.seed), traffic.busiest_per_s, cores)
    if settings.frame_size is not None:
        measured = replace(measured, size=settings.frame_size)
    if measured.rate_factor < 1.0:
        traffic = demo_traffic(
            trace, settings.duration_s, settings.mean_rate_per_s * measured.rate_factor, settings.seed
        )
    view.note(
        f"calibrated: {measured.size[0]}x{measured.size[1]} frames, {1000 * measured.render_cpu_s:.1f} ms of one core; "
        f"{traffic.traffic.mean_per_s:.1f} requests/s on average, {traffic.busiest_per_s:.0f} at the busiest"
    )
    return traffic, scenes, measured


def popularity(scenes: list[str], seed: int) -> dict[str, float]:
    """Share of the requests for each scene, as the load client with this seed draws them."""
    weights = np.arange(1, len(scenes) + 1, dtype=np.float64) ** -ZIPF_EXPONENT
    weights /= weights.sum()
    return {
        scenes[index]: float(weight) for index, weight in zip(popularity_order(len(scenes), seed), weights, strict=True)
    }


def make_pool(settings: DemoSettings, frame_floor_s: float, day_s: float, pod_budget_bytes: int) -> Pool:
    """The pool's settings in demo time, where a day is `day_s` and a start-up a few seconds."""
    startup_s = settings.provision_s + 2.5
    return Pool(
        name=POOL,
        min_replicas=1,
        max_replicas=settings.max_pods,
        objective=Objective(max_queue_wait_s=WAIT_OBJECTIVE_S),
        # HPA holds for 300 s where a start takes about three minutes; the same proportion here.
        behavior=Behavior(down_window_s=1.7 * startup_s, stale_after_s=3 * BIN_S, blind_after_s=10 * BIN_S),
        forecast=ForecastSettings(season_s=(day_s, 7 * day_s)),
        mode=Mode.REACTIVE if settings.autoscaler == "reactive" else Mode.PREDICTIVE,
        tick_s=BIN_S,
        service_s=frame_floor_s,
        service_cv=0.2,
        startup_s=startup_s,
        pod_budget_bytes=pod_budget_bytes,
    )


class Play:
    """One demo from the first folder to the last answer."""

    def __init__(self, settings: DemoSettings, view: LiveView, stack: contextlib.ExitStack) -> None:
        self.begun_s = time.monotonic()
        self.settings = settings
        self.view = view
        self.stack = stack
        self.folder = Path(tempfile.mkdtemp(prefix="splatfleet-demo-"))
        if settings.keep:
            view.note(f"the run's folder: {self.folder}")
        else:
            stack.callback(shutil.rmtree, self.folder, ignore_errors=True)
        log = stack.enter_context((self.folder / "fleet.log").open("a", buffering=1))
        structlog.configure(logger_factory=structlog.PrintLoggerFactory(log), processors=LOG_PROCESSORS)
        stack.callback(structlog.reset_defaults)
        self.records, self.frames = self.folder / "records.jsonl", self.folder / "frames"
        self.machine = MachineLoad()
        self.machine.start()
        stack.callback(self.machine.stop)
        wait_until_quiet(settings.quiet_wait_s, view.note)
        self.traffic, self.scenes, self.fit = _prepare(settings, self.folder, view)
        self.frame_floor_s = settings.frame_floor_s / self.fit.rate_factor
        self.described = describe()
        self.first_frame_s: float | None = None
        self.premieres: Premieres | None = None
        self.visitors: FirstVisitors | None = None
        self.visits: Visits | None = None
        self.timeline = Timeline(
            title=settings.trace.name if settings.trace else "built-in days",
            autoscaler=settings.autoscaler,
            placement=settings.placement,
            duration_s=settings.duration_s,
            day_s=self.traffic.day_s,
            bin_s=BIN_S,
            history_per_s=(self.traffic.history / BIN_S).tolist(),
        )

    def to_the_end(self) -> Run:
        """Start everything, replay the traffic, collect what it came to."""
        pods, parts = self._start_fleet()
        cluster = self._start_cluster(pods, parts)
        self.visits = self._first_visitors(cluster, pods)
        load, zero_s = self.start_load(parts.gateway_url)
        memory = self._replay(cluster, pods, parts, zero_s)
        pod_seconds = pods.pod_seconds(zero_s, pods.now_s())
        code = load.wait(LAST_ANSWERS_S)
        if code != 0:
            raise RuntimeError(f"the load client ended with {code}: {load.log_tail()}")
        return self._collect(cluster, pods, memory, pod_seconds)

    def _start_fleet(self) -> tuple[Pods, Stack]:
        """Nodes, control plane and the pods that the first seconds need."""
        settings = self.settings
        total_bytes = sum(self.scenes.resident_bytes.values())
        largest_bytes = max(self.scenes.resident_bytes.values())
        fleet_catalogue = self.scenes.catalogue_file
        if settings.visit_lead_s > 0:
            self.premieres = make_premieres(
                self.folder / "premieres", self.scenes.catalogue, settings.fetch_bytes_per_s, settings.seed
            )
            fleet_catalogue = self.premieres.catalogue_file
            largest_bytes = max(largest_bytes, self.premieres.resident_bytes)
        # A pod holds about half of the scenes, a node's disk (source and packed layout) about two thirds.
        self.pod_budget_bytes = max(round(1.05 * largest_bytes), round(0.5 * total_bytes))
        nodes = make_nodes(self.folder, max(round(2.5 * largest_bytes), round(1.3 * total_bytes)), settings.seed)
        self.view.note("starting three nodes, an exporter and a scene agent on each, the extender and the gateway")
        renderers_file = self.folder / "renderers.json"
        parts = start_stack(
            self.stack,
            self.folder,
            nodes,
            POOL,
            renderers_file,
            fleet_catalogue,
            settings.fetch_bytes_per_s,
        )
        scheduler: Scheduler = (
            ExtenderScheduler(parts.extender_url) if settings.placement == "scenes" else SpreadScheduler()
        )
        pod_settings = PodSettings(
            pool=POOL,
            catalogue=fleet_catalogue,
            backends=build_backends(settings.backends),
            run_folder=self.folder,
            provision_s=settings.provision_s,
            frame_floor_s=self.frame_floor_s,
            budget_bytes=self.pod_budget_bytes,
            fetch_bytes_per_s=settings.fetch_bytes_per_s,
            frame_size=self.fit.size,
            seed=settings.seed,
            agent_urls=parts.agent_urls,
            agent_token_file=parts.token_file,
        )
        pods = Pods(pod_settings, nodes, scheduler, self.view.note)
        self.stack.callback(pods.close)
        return pods, parts

    def _start_cluster(self, pods: Pods, parts: Stack) -> LocalCluster:
        pool = make_pool(self.settings, self.frame_floor_s, self.traffic.day_s, self.pod_budget_bytes)
        source = DirectScrape(parts.gateway_url, list(parts.exporter_urls.values()), BIN_S)
        self.stack.callback(source.close)
        cluster = LocalCluster(
            pool, pods, source, parts.exporter_urls, self.scenes.catalogue, self.traffic.history, self._agents(parts)
        )
        self.stack.callback(cluster.close)
        told_pod = self._predict_visit(cluster, pods, parts)
        count = max(1, math.ceil(self.traffic.first_per_s * self.frame_floor_s / 0.6))
        self.view.note(f"starting {count} pods, each a Triton server of its own")
        begun_s = time.monotonic()
        cluster.begin(count, popularity(self.scenes.ids, self.settings.seed))
        if told_pod is not None:
            told_pod.result()
        self.view.note(f"{len(pods.listing())} pods ready in {time.monotonic() - begun_s:.1f} s")
        self.first_frame(parts.gateway_url)
        return cluster

    def _predict_visit(self, cluster: LocalCluster, pods: Pods, parts: Stack) -> Future[None] | None:
        """Tell an empty node of the visit that is to come; the pod that starts there knows nothing of it."""
        settings = self.settings
        if self.premieres is None:
            return None
        self.visitors = FirstVisitors(
            self.premieres, parts.gateway_url, settings.visit_lead_s, settings.fetch_bytes_per_s
        )
        if settings.warm_up == "off":
            return None
        node = list(pods.nodes)[-1]
        self.visitors.predict(cluster, node)
        self.view.note(f"predicted: in {settings.visit_lead_s:.0f} s somebody visits a new scene; {node} is told")
        return pods.start((), only_on=node)

    def _first_visitors(self, cluster: LocalCluster, pods: Pods) -> Visits | None:
        if self.visitors is None:
            return None
        visits = self.visitors.visit(cluster, pods, self.view.note)
        self.view.note(visits.told())
        return visits

    def _agents(self, parts: Stack) -> dict[str, AgentClient] | None:
        """The nodes' scene agents, where warm-up is on."""
        if self.settings.warm_up == "off":
            return None
        tokens = BearerTokens(parts.token_file)
        agents = {node: AgentClient(url, tokens) for node, url in parts.agent_urls.items()}
        for agent in agents.values():
            self.stack.callback(agent.close)
        return agents

    def first_frame(self, gateway_url: str) -> None:
        """One frame through the whole path before the traffic; raises RuntimeError where none comes."""
        entry = next(iter(self.scenes.catalogue.entries.values()))
        body = encode_bodies(orbit_of(entry), self.fit.size, {"format": "jpeg"}, poses=1)[0]
        answer = httpx2.post(
            gateway_url + "/v1/render", content=body, headers={"content-type": "application/json"}, timeout=30.0
        )
        if answer.status_code != 200:
            raise RuntimeError(f"the first frame did not come: {answer.status_code} {answer.text[:200]}")
        self.first_frame_s = round(time.monotonic() - self.begun_s, 2)
        self.view.note(f"first frame {self.first_frame_s:.1f} s after the start")

    def start_load(self, gateway_url: str) -> tuple[Child, float]:
        """Start the client; the replay's zero is a moment shortly ahead."""
        trace = self.folder / "replay.csv"
        write_trace(self.traffic.traffic, trace)
        zero_s = time.monotonic() + START_DELAY_S
        arguments = {
            "--gateway": gateway_url,
            "--trace": trace,
            "--seconds-per-day": 86_400,  # the trace is in the time of the replay already
            "--duration": self.traffic.traffic.duration_s,
            "--mean-rate": self.traffic.traffic.mean_per_s,
            "--zipf": ZIPF_EXPONENT,
            "--catalogue": self.scenes.catalogue_file,
            "--size": "{}x{}".format(*self.fit.size),
            "--seed": self.settings.seed,
            "--records": self.records,
            "--frames": self.frames,
            "--frame-every": max(1, round(self.settings.duration_s * self.traffic.traffic.mean_per_s / 48)),
            "--start-at": time.time() + START_DELAY_S,
        }
        flags = [str(part) for pair in arguments.items() for part in pair]
        load = verb_child("load", flags, self.folder / "logs" / "load.log")
        self.stack.callback(load.stop)
        return load, zero_s

    def _replay(self, cluster: LocalCluster, pods: Pods, parts: Stack, zero_s: float) -> Memory:
        """Tick once a bin until the traffic ends; fits go on in the background, as `splatfleet autoscaler` has them."""
        memory, refitter = Memory(), Refitter()
        self.stack.callback(refitter.close)
        timeline = self.timeline
        for number in range(math.ceil(self.settings.duration_s / BIN_S) + 1):
            pause_s = zero_s + number * BIN_S - time.monotonic()
            if pause_s > 0:
                time.sleep(pause_s)
            if number == 0:
                self.machine.forget()  # the start of a fleet is no part of the replay
            if dead := parts.dead():
                raise RuntimeError("; ".join(dead))
            refitter.exchange(memory)
            t_s = time.monotonic() - zero_s
            decision = tick(cluster, memory, t_s)[0]
            seen = moment(t_s, cluster, pods, decision, 1.0 / self.frame_floor_s, self.machine.latest)
            timeline.moments.append(seen)
            if seen.decision is not None:
                timeline.decisions.append(seen.decision)
            self.view.update(timeline, seen)
        return memory

    def _collect(self, cluster: LocalCluster, pods: Pods, memory: Memory, pod_seconds: float) -> Run:
        pods.collect_running()
        starts = [pod.ready_s - pod.asked_s for pod in pods.listing() if pod.ready_s is not None]
        warmed = cluster.warmed()
        forecaster = memory.pools[POOL].forecaster
        forecast = forecaster.view() if forecaster is not None else None
        totals = RunTotals(
            pod_seconds=round(pod_seconds, 1),
            bytes_fetched=pods.totals.bytes_fetched + warmed.remote_bytes,
            scene_hits=pods.totals.scene_hits,
            scene_misses=pods.totals.scene_misses,
            failed_starts=pods.totals.failed_starts,
            forecast_coverage=forecast.coverage if forecast is not None else None,
            machine_cpu_ratio_p95=self.machine.percentile(95),
            others_cpu_ratio_p95=self.machine.others_percentile(95),
            first_frame_s=self.first_frame_s,
            machine=self.described,
            load_average_end=os.getloadavg(),
            settings=self.told(self.pod_budget_bytes, starts),
            warm_peer_bytes=warmed.peer_bytes,
            warm_deadlines_missed=warmed.deadlines_missed if self.settings.warm_up == "on" else None,
            seed=self.settings.seed,
            visits=self.visits,
        )
        return self.run(totals)

    def run(self, totals: RunTotals, pod_names: Mapping[str, str] | None = None) -> Run:
        """What the requests' records and these totals come to; `pod_names` by UID, where the two differ."""
        records = read_records(self.records)
        credits = self.scenes.credits
        samples = [
            FrameSample(path, scene, t_s, (pod_names or {}).get(pod, pod), credits.get(scene, ""))
            for path, scene, t_s, pod in _sampled(self.frames, records)
        ]
        return Run(self.timeline, score(records, totals, self.timeline), records, samples, credits)

    def told(self, pod_budget_bytes: int, starts: Sequence[float]) -> dict[str, object]:
        """The settings that shaped the run, as the scorecard keeps them; `starts` are seconds from ask to ready."""
        settings = self.settings
        return {
            "traffic": self.timeline.title,
            "scenes": len(self.scenes.ids),
            "mean_rate_per_s": round(self.traffic.traffic.mean_per_s, 2),
            "busiest_per_s": round(self.traffic.busiest_per_s, 1),
            "day_s": self.traffic.day_s,
            "frame_size": "{}x{}".format(*self.fit.size),
            "frame_floor_s": round(self.frame_floor_s, 3),
            "provision_s": settings.provision_s,
            "fetch_bytes_per_s": settings.fetch_bytes_per_s,
            "pod_budget_bytes": pod_budget_bytes,
            "warm_up": settings.warm_up,
            "startup_p50_s": round(float(np.median(starts)), 2) if starts else None,
        }


def _sampled(folder: Path, records: list[FrameRecord]) -> Iterator[tuple[Path, str, float, str]]:
    """The frames that the load client kept, `<number>-<scene>.jpg`, with the record of their request."""
    by_number = dict(enumerate(sorted(records, key=lambda record: record.t_s)))
    for path in sorted(folder.glob("*-*.jpg")):
        number, _, scene = path.stem.partition("-")
        record = by_number.get(int(number))
        yield path, scene, record.t_s if record else 0.0, record.pod if record else ""
