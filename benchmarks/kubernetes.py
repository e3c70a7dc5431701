"""Pods a second of the real kube-scheduler: alone, with an extender that does nothing, and with ours.

A real control plane holds emulated nodes (seven slices each) whose digests come from exporters at the wire. Each run
starts a kube-scheduler on a full queue of pods and waits until all are bound. Nobody runs the pods. Setups take turns,
so that whatever else the machine does falls on all of them; the median of the rounds counts.
"""

from __future__ import annotations

import json
import math
import multiprocessing
import os
import random
import signal
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import click
import psutil
from prometheus_client.parser import text_string_to_metric_families

from benchmarks.extender import SCENES
from benchmarks.kubernetes_parts import SLICES, answer_digests, node_name, serve_no_op
from benchmarks.machine import Machine, describe
from fleet.labels import COMPONENT_LABEL, EXPORTER_PORT_NAME, NODE_COMPONENT, POOL_LABEL, SCENES_ANNOTATION
from fleet.metrics import EXTENDER_DIGEST_AGE
from kube.connection import Connection
from kube.writes import MERGE_PATCH
from local_fleet.child import free_ports, verb_child
from local_fleet.control_plane.plane import ControlPlane
from scheduler_extender.scheduler_config import DEFAULT_WEIGHT, Wanted, generate

SCHEDULER = "bench"
RESOURCE = "nvidia.com/mig-1g.10gb"
PODS = "/api/v1/namespaces/default/pods"
THREADS = 8
BOUND_WITHIN_S = 300.0
LOOK_EVERY_S = 0.5  # at the scheduler's metrics: writing them takes it 10 ms and more
FRESH_S = 15.0  # of a digest; a quiet one is asked for every 10 s


@dataclass(frozen=True, slots=True)
class Setup:
    """Who is asked, and whether about every node or about kube-scheduler's own sample."""

    name: str  # as in the figures: `ours_all`
    extender: str  # none, noop or ours
    every_node: bool = False


SETUPS = (
    Setup("none", "none"),
    Setup("noop", "noop"),
    Setup("ours", "ours"),
    Setup("noop_all", "noop", every_node=True),
    Setup("ours_all", "ours", every_node=True),
)


@dataclass(frozen=True, slots=True)
class Run:
    """One queue of pods, emptied."""

    setup: str
    pods_per_s: float  # over the middle of the run, without its start and its end
    algorithm_ms: float  # kube-scheduler's mean per pod, the extender's calls included
    scheduler_cpu_ms: float  # per pod
    extender_cpu_ms: float  # per pod; 0 without one
    load_average_1min: float


@dataclass
class Bench:
    """A control plane with its nodes, and the extenders that its schedulers ask."""

    plane: ControlPlane
    connection: Connection
    urls: dict[str, str] = field(default_factory=dict)  # none is not in it
    pids: dict[str, int] = field(default_factory=dict)

    def each(self, act: Callable[[int], Any], numbers: Sequence[int]) -> None:
        with ThreadPoolExecutor(THREADS) as threads:
            list(threads.map(act, numbers))

    def post(self, path: str, document: dict[str, Any]) -> None:
        self.connection.request("POST", path, json.dumps(document).encode(), deadline_s=60.0)

    def patch_status(self, path: str, status: dict[str, Any]) -> None:
        body = json.dumps({"status": status}).encode()
        self.connection.request("PATCH", f"{path}/status", body, MERGE_PATCH, deadline_s=60.0)

    def add_node(self, number: int) -> None:
        name = node_name(number)
        self.post("/api/v1/nodes", {"metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}}})
        room = {"cpu": "64", "memory": "512Gi", "pods": "250", RESOURCE: str(SLICES)}
        ready = {"type": "Ready", "status": "True", "reason": "KubeletReady", "message": "emulated"}
        self.patch_status(f"/api/v1/nodes/{name}", {"capacity": room, "allocatable": room, "conditions": [ready]})

    def add_exporter(self, number: int, port: int) -> None:
        name = f"exporter-{number:04d}"
        container = {
            "name": "exporter",
            "image": "none",
            "ports": [{"name": EXPORTER_PORT_NAME, "containerPort": port}],
        }
        metadata = {"name": name, "namespace": "default", "labels": {COMPONENT_LABEL: NODE_COMPONENT}}
        spec = {"nodeName": node_name(number), "containers": [container], "tolerations": [{"operator": "Exists"}]}
        self.post(PODS, {"metadata": metadata, "spec": spec})
        self.patch_status(f"{PODS}/{name}", {"phase": "Running", "podIP": "127.0.0.1"})

    def add_pod(self, number: int) -> None:
        asked = {"requests": {RESOURCE: "1"}, "limits": {RESOURCE: "1"}}
        scene = random.Random(number).randrange(SCENES)
        metadata = {
            "name": f"renderer-{number:05d}",
            "labels": {POOL_LABEL: "bench"},
            "annotations": {SCENES_ANNOTATION: f"scene-{scene}"},
        }
        spec = {
            "schedulerName": SCHEDULER,
            "terminationGracePeriodSeconds": 0,
            "containers": [{"name": "renderer", "image": "none", "resources": asked}],
        }
        self.post(PODS, {"metadata": metadata, "spec": spec})

    def count(self, path: str, query: dict[str, str]) -> int:
        whole = json.loads(self.connection.get(path, {"limit": "1", **query}))
        return len(whole["items"]) + int(whole["metadata"].get("remainingItemCount", 0))

    def delete_pods(self) -> None:
        query = {"labelSelector": POOL_LABEL}
        body = b'{"gracePeriodSeconds": 0}'
        self.connection.request("DELETE", PODS, body, query=query, deadline_s=120.0)
        _until(lambda: not json.loads(self.connection.get(PODS, {**query, "limit": "1"}))["items"], "pods to go")

    @contextmanager
    def asking(self, extender: str) -> Iterator[None]:
        """Ours follows the API server whoever is asked; while that is another it is stopped, and then catches up."""
        if extender == "ours":
            yield
            return
        os.kill(self.pids["ours"], signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(self.pids["ours"], signal.SIGCONT)
            _until(lambda: _digest_age_s(self.urls["ours"]) < FRESH_S, "digests to be fresh again")

    def taints(self) -> int:
        nodes = json.loads(self.connection.get("/api/v1/nodes", deadline_s=60.0))["items"]
        return sum(bool(node["spec"].get("taints")) for node in nodes)


@contextmanager
def bench_of(plane: ControlPlane, nodes: int, say: Callable[[str], None]) -> Iterator[Bench]:
    """Nodes, exporters and both extenders beside a control plane that runs."""
    with ExitStack() as ends:
        connection = Connection.open(plane.kubeconfig)
        ends.callback(connection.close)
        bench = Bench(plane, connection)
        say(f"{nodes} nodes")
        bench.each(bench.add_node, range(nodes))
        _, ports = ends.enter_context(_process(answer_digests, nodes))
        bench.each(lambda number: bench.add_exporter(number, ports[number]), range(nodes))
        _until(lambda: bench.taints() == 0, "nodes to be Ready")
        bench.pids["noop"], port = ends.enter_context(_process(serve_no_op))
        bench.urls["noop"] = f"http://127.0.0.1:{port}/no-op"
        port = free_ports(1)[0]
        flags = ["--kubernetes", "--listen", f"127.0.0.1:{port}", f"--weight={DEFAULT_WEIGHT}"]
        child = verb_child("extender", flags, plane.logs / "extender.log", {"KUBECONFIG": str(plane.kubeconfig)})
        ends.callback(child.stop)
        child.wait_listening(port, 30.0)
        bench.urls["ours"], bench.pids["ours"] = f"http://127.0.0.1:{port}", child.pid
        say("digests of all nodes")
        _until(lambda: _answers(f"http://127.0.0.1:{port}/-/ready"), "the extender to be ready")
        yield bench


def measure(bench: Bench, setup: Setup, pods: int) -> Run:
    """Empty one queue of `pods` pods under one setup; raises RuntimeError where they are not bound in time."""
    with bench.asking(setup.extender):
        return _measure(bench, setup, pods)


def _measure(bench: Bench, setup: Setup, pods: int) -> Run:
    bench.each(bench.add_pod, range(pods))
    port = free_ports(1)[0]
    extender_pid = bench.pids.get(setup.extender)
    extender_before_s = _cpu_s(extender_pid) if extender_pid else 0.0
    bench.plane.start_scheduler(_configuration(setup, bench.urls.get(setup.extender, "")), SCHEDULER, port)
    seen: list[tuple[float, float]] = []  # when, pods bound
    try:
        while True:
            figures = _scheduler_figures(bench.plane, port)
            seen.append((time.monotonic(), figures["bound"]))
            if figures["bound"] >= pods:
                break
            if seen[-1][0] - seen[0][0] > BOUND_WITHIN_S:
                raise RuntimeError(f"{setup.name}: {figures['bound']:.0f} of {pods} pods bound in {BOUND_WITHIN_S} s")
            time.sleep(LOOK_EVERY_S)
        extender_s = _cpu_s(extender_pid) - extender_before_s if extender_pid else 0.0
        load = psutil.getloadavg()[0]
    finally:
        bench.plane.stop_program(SCHEDULER)
        bench.delete_pods()
    return Run(
        setup.name,
        round(_rate(seen, pods), 1),
        round(1000 * figures["algorithm_s"] / max(1.0, figures["attempts"]), 2),
        round(1000 * figures["cpu_s"] / pods, 2),
        round(1000 * extender_s / pods, 2),
        round(load, 2),
    )


def _configuration(setup: Setup, url: str) -> dict[str, Any]:
    whole = generate([RESOURCE], Wanted(url or "http://127.0.0.1:1", SCHEDULER))
    if not setup.every_node:
        for profile in whole["profiles"]:
            del profile["percentageOfNodesToScore"]
    if setup.extender == "none":
        del whole["extenders"]
    elif setup.extender == "noop":
        del whole["extenders"][0]["preemptVerb"]  # it is never asked, and the no-op has none
    return whole


def _rate(seen: list[tuple[float, float]], pods: int) -> float:
    """Pods a second between the samples that enclose the middle four fifths of the queue."""
    first = next(sample for sample in reversed(seen) if sample[1] <= max(0.1 * pods, seen[0][1]))
    last = next(sample for sample in seen if sample[1] >= 0.9 * pods)
    return (last[1] - first[1]) / (last[0] - first[0]) if last[0] > first[0] else float("nan")


def _scheduler_figures(plane: ControlPlane, port: int) -> dict[str, float]:
    wanted = {
        "scheduler_schedule_attempts_total": "bound",
        "scheduler_scheduling_algorithm_duration_seconds_sum": "algorithm_s",
        "scheduler_scheduling_algorithm_duration_seconds_count": "attempts",
        "process_cpu_seconds_total": "cpu_s",
    }
    figures = dict.fromkeys(wanted.values(), 0.0)
    lines = plane.metrics(port, deadline_s=60.0).splitlines()
    text = "\n".join(line for line in lines if line.startswith(tuple(wanted))) + "\n"
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.labels.get("result", "scheduled") == "scheduled":
                figures[wanted[sample.name]] += sample.value
    return figures


def _cpu_s(pid: int) -> float:
    spent = psutil.Process(pid).cpu_times()
    return float(spent.user + spent.system)


def _until(holds: Callable[[], bool], what: str, within_s: float = 240.0) -> None:
    end_s = time.monotonic() + within_s
    while not holds():
        if time.monotonic() > end_s:
            raise RuntimeError(f"waited {within_s:.0f} s for {what}")
        time.sleep(0.5)


def _digest_age_s(url: str) -> float:
    """The age of the oldest digest that an extender knows."""
    import httpx2

    lines = httpx2.get(f"{url}/metrics", trust_env=False, timeout=30).text.splitlines()
    ages = (line.rsplit(" ", 1)[1] for line in lines if line.startswith(EXTENDER_DIGEST_AGE.name))
    return max(map(float, ages), default=math.inf)


def _answers(url: str) -> bool:
    import httpx2

    try:
        return httpx2.get(url, trust_env=False).status_code == 200
    except httpx2.HTTPError:
        return False


@contextmanager
def _process(target: Callable[..., None], *arguments: object) -> Iterator[tuple[int, Any]]:
    """A process that sends what it listens on, until the end of the block; its pid and what it sent."""
    here, there = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=target, args=(*arguments, there), daemon=True)
    process.start()
    try:
        if not here.poll(120):
            raise RuntimeError(f"{target.__name__} did not start within 120 s")
        assert process.pid is not None
        yield process.pid, here.recv()
    finally:
        process.terminate()
        process.join(10)


def medians(runs: Sequence[Run]) -> dict[str, float]:
    """Median pods a second per setup, and ours relative to the no-op of the same round."""
    by_setup = {setup.name: [run.pods_per_s for run in runs if run.setup == setup.name] for setup in SETUPS}
    figures = {f"{name}_pods_per_s": statistics.median(rates) for name, rates in by_setup.items() if rates}
    for ours, noop in (("ours", "noop"), ("ours_all", "noop_all")):
        ratios = [mine / theirs for mine, theirs in zip(by_setup[ours], by_setup[noop], strict=True)]
        if ratios:
            figures[f"{ours}_to_{noop}_ratio"] = round(statistics.median(ratios), 3)
    return figures


def as_text(machine: Machine, nodes: int, pods: int, runs: Sequence[Run]) -> str:
    """The table of medians, in Markdown, with the machine above it."""
    lines = [
        f"{machine.cpu}, {machine.cpus} cores, {nodes} nodes, {pods} pods, "
        f"{sum(run.setup == 'none' for run in runs)} alternating rounds, "
        f"load average {min(run.load_average_1min for run in runs)} to {max(run.load_average_1min for run in runs)}",
        "",
        "| setup | pods/s, median (all runs) | algorithm ms | scheduler CPU ms/pod | extender CPU ms/pod |",
        "|---|---|---|---|---|",
    ]
    for setup in SETUPS:
        of_setup = [run for run in runs if run.setup == setup.name]
        if not of_setup:
            continue
        rates = sorted(run.pods_per_s for run in of_setup)
        rest = [
            statistics.median(getattr(run, name) for run in of_setup)
            for name in ("algorithm_ms", "scheduler_cpu_ms", "extender_cpu_ms")
        ]
        middle = f"{statistics.median(rates)} ({', '.join(map(str, rates))})"
        lines.append(f"| {setup.name} | {middle} | {rest[0]:.1f} | {rest[1]:.1f} | {rest[2]:.1f} |")
    return "\n".join(lines)


def main(nodes: int, pods: int, rounds: int, json_path: Path | None) -> None:
    """Build the control plane where it is missing, measure, print the table, write the figures."""
    from local_fleet.control_plane.binaries import find
    from local_fleet.control_plane.build import build

    build()
    machine = describe()
    runs: list[Run] = []

    def say(text: str) -> None:
        click.echo(f"{time.strftime('%H:%M:%S')}  {text}", err=True)

    with (
        tempfile.TemporaryDirectory(prefix="splatfleet-bench-") as folder,
        ControlPlane(find(), Path(folder)) as plane,
        bench_of(plane, nodes, say) as bench,
    ):
        for turn in range(rounds):
            for setup in SETUPS:
                runs.append(measure(bench, setup, pods))
                say(f"round {turn + 1}: {setup.name} {runs[-1].pods_per_s} pods/s")
    click.echo(as_text(machine, nodes, pods, runs))
    if json_path is not None:
        whole = {**medians(runs), "machine": asdict(machine), "nodes": nodes, "pods": pods}
        json_path.write_text(json.dumps(whole | {"runs": [asdict(run) for run in runs]}, indent=1) + "\n")
