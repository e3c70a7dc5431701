"""The demo on a real Kubernetes: the same traffic and scorecard, scaled through /scale and placed by kube-scheduler."""

from __future__ import annotations

import contextlib
import math
import os
import threading
import time
from functools import partial
from random import Random
from typing import Any

import numpy as np

from autoscaler.demand import Reading
from autoscaler.pool import Pool
from autoscaler.scrape import DirectScrape
from fleet import labels
from local_fleet.cluster import WarmTotals, warm_totals
from local_fleet.demo_plan import POOL, WAIT_OBJECTIVE_S, make_pool, popularity
from local_fleet.kubelet.surroundings import Provisioning
from local_fleet.kubernetes import manifests, metrics_adapter
from local_fleet.kubernetes.fleet import Flags, FleetSettings, KubernetesFleet
from local_fleet.kubernetes.manifests import NAMESPACE, PoolSpec
from local_fleet.kubernetes.moments import Decided, NodeDigests, Seen, hpa_decision, moment, our_decision
from local_fleet.kubernetes.prometheus import exposition_of_past
from local_fleet.nodes import LocalNode, make_nodes
from local_fleet.pods import PROVISION_SIGMA, renderer_counters
from local_fleet.replay import BIN_S
from local_fleet.report import Run
from local_fleet.scorecard import RunTotals
from local_fleet.stage import LAST_ANSWERS_S, START_DELAY_S, Stage
from local_fleet.triton_server import build_backends
from renderer.agent_client import AgentClient
from renderer.cpu import THREADS_ENV
from renderer.credentials import BearerTokens

HPA_UTILIZATION = 0.7  # of a pod's capacity: what the HPA aims at
PAST_GAP_S = 8.0  # between the end of the past and the replay: Prometheus and the load client start in it


class KubernetesPlay:
    """One demo on a control plane of its own, from etcd to the last answer."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._settings = stage.settings
        self._decisions = stage.folder / "decisions.json"
        self._counters: dict[str, float] = {}  # of renderer pods that ended
        self._lock = threading.Lock()
        self._coverage: float | None = None
        total_bytes = sum(stage.scenes.resident_bytes.values())
        largest_bytes = max(stage.scenes.resident_bytes.values())
        self._pod_budget_bytes = max(round(1.05 * largest_bytes), round(0.5 * total_bytes))
        self._store_bytes = max(round(2.5 * largest_bytes), round(1.3 * total_bytes))
        self._nodes: dict[str, LocalNode] = {
            node.name: node for node in make_nodes(stage.folder, self._store_bytes, stage.settings.seed)
        }
        self._pool = make_pool(stage.settings, stage.frame_floor_s, stage.traffic.day_s, self._pod_budget_bytes)

    def to_the_end(self) -> Run:
        """Start everything, replay the traffic, collect what it came to."""
        stage = self._stage
        (stage.folder / "logs").mkdir()
        stage.view.note("starting etcd, kube-apiserver, kube-controller-manager and kube-scheduler")
        fleet = stage.stack.enter_context(KubernetesFleet(self._fleet_settings()))
        kubectl = f"{fleet.plane.binaries.program('kubectl')} --kubeconfig {fleet.plane.kubeconfig} -n {NAMESPACE}"
        stage.view.note(f"in another terminal:  alias k='{kubectl}'; k get pods,pa,hpa -o wide")
        self._start_pool(fleet)
        gateway_url = fleet.gateway_url
        stage.first_frame(gateway_url)
        zero_s = self._start_autoscaler(fleet)
        time.sleep(max(0.0, zero_s - START_DELAY_S - time.monotonic()))
        load, zero_s = stage.start_load(gateway_url)
        self._watch(fleet, zero_s)
        pod_seconds = fleet.ledger.pod_seconds(zero_s, time.monotonic())
        code = load.wait(LAST_ANSWERS_S)
        if code != 0:
            raise RuntimeError(f"the load client ended with {code}: {load.log_tail()}")
        return self._collect(fleet, pod_seconds)

    def _fleet_settings(self) -> FleetSettings:
        stage, settings = self._stage, self._settings
        catalogue = stage.scenes.catalogue_file
        store_gb, fetch_mb = self._store_bytes / 1e9, settings.fetch_bytes_per_s / 1e6
        history_days = max(0.001, len(stage.traffic.history) * BIN_S / 86_400.0 + 0.002)
        flags = Flags(
            exporter=("--window-s=10",),
            scene_agent=(f"--capacity-gb={store_gb!r}", f"--catalogue={catalogue}", f"--fetch-mb-per-s={fetch_mb!r}"),
            gateway=(f"--catalogue={catalogue}", f"--pool={POOL}"),
            autoscaler=(
                f"--interval-s={BIN_S:g}",
                f"--bin-s={BIN_S:g}",
                f"--history-days={history_days:.5f}",
                "--drain-s=1",
                f"--json={self._decisions}",
            ),
            controllers=("--horizontal-pod-autoscaler-sync-period=1s",),
        )
        return FleetSettings(
            folder=stage.folder,
            backends=build_backends(settings.backends),
            nodes=list(self._nodes.values()),
            provisioning=Provisioning(settings.provision_s, PROVISION_SIGMA, Random(settings.seed)),
            flags=flags,
            extender=settings.placement == "scenes",
            autoscaler=settings.autoscaler != "hpa",
            before_end=self._count,
            note=stage.view.note,
        )

    def _start_autoscaler(self, fleet: KubernetesFleet) -> float:
        """Give Prometheus the days before the replay, and the pool its autoscaler; the replay's zero, monotonic.

        The past ends where the replay begins, less the seconds until then: seasons go on in step.
        """
        history = self._stage.traffic.history
        left_out = round(PAST_GAP_S / BIN_S)
        past = None
        if history.size > left_out:
            told = {"pool": POOL, "scene": "past", "job": "gateway", "instance": "before"}
            past = exposition_of_past(history[:-left_out], BIN_S, time.time(), told)
        zero_s = time.monotonic() + PAST_GAP_S
        fleet.start_prometheus(past)
        if self._settings.autoscaler == "hpa":
            read = partial(metrics_adapter.demand_per_s, fleet.prometheus_url, POOL)
            adapter = metrics_adapter.MetricsAdapter(fleet.plane, read).start(NAMESPACE)
            self._stage.stack.callback(adapter.stop)
            fleet.plane.apply(self._horizontal_pod_autoscaler())
        else:
            fleet.plane.apply(manifests.predictive_autoscaler(POOL, self._predictive()))
        return zero_s

    def _start_pool(self, fleet: KubernetesFleet) -> None:
        stage, settings, begun_s = self._stage, self._settings, time.monotonic()
        count = max(1, math.ceil(stage.traffic.first_per_s * stage.frame_floor_s / 0.6))
        stage.view.note(f"starting {count} pods, each a Triton server of its own")
        scheduler = manifests.PLACEMENT_SCHEDULER if settings.placement == "scenes" else ""
        gated = settings.autoscaler != "hpa"
        spec = PoolSpec(self._environment(), count, self._first_scenes(), POOL, scheduler, gated=gated)
        fleet.start_pool(spec)
        stage.view.note(f"{count} pods ready in {time.monotonic() - begun_s:.1f} s")

    def _environment(self) -> dict[str, str]:
        settings = self._settings
        return {
            labels.CATALOGUE_ENV: str(self._stage.scenes.catalogue_file),
            labels.STORE_CAPACITY_ENV: str(self._store_bytes),
            labels.POD_BUDGET_ENV: str(self._pod_budget_bytes),
            labels.FETCH_LIMIT_ENV: str(int(settings.fetch_bytes_per_s)),
            labels.FRAME_FLOOR_ENV: str(self._stage.frame_floor_s),
            labels.DEFAULT_SIZE_ENV: "{}x{}".format(*self._stage.fit.size),
            labels.RASTERIZER_ENV: "cpu",
            THREADS_ENV: "1",
            "OMP_NUM_THREADS": "1",
            "NUMBA_NUM_THREADS": "1",
        }

    def _first_scenes(self) -> list[str]:
        """The most popular scenes that fit into a pod: of a Deployment's first pods all have the same."""
        stage, left_bytes, chosen = self._stage, self._pod_budget_bytes, []
        shares = popularity(stage.scenes.ids, self._settings.seed)
        for scene in sorted(shares, key=lambda scene: -shares[scene]):
            size = stage.scenes.resident_bytes[scene]
            if size <= left_bytes:
                chosen.append(scene)
                left_bytes -= size
        return chosen

    def _predictive(self) -> dict[str, Any]:
        """The pool's settings as a PredictiveAutoscaler spec."""
        pool: Pool = self._pool
        on = self._settings.warm_up == "on"
        return {
            "minReplicas": pool.min_replicas,
            "maxReplicas": pool.max_replicas,
            "objective": {"maxQueueWaitSeconds": WAIT_OBJECTIVE_S},
            "demand": {"serviceSeconds": pool.service_s, "serviceVariation": pool.service_cv},
            "forecast": {
                "policy": "Predictive" if self._settings.autoscaler == "predictive" else "Reactive",
                "seasonSeconds": list(pool.forecast.season_s),
                "startupSeconds": pool.startup_s,
            },
            "behavior": {
                "downWindowSeconds": pool.behavior.down_window_s,
                "staleAfterSeconds": pool.behavior.stale_after_s,
                "blindAfterSeconds": pool.behavior.blind_after_s,
            },
            "warmup": {"podBudgetBytes": self._pod_budget_bytes if on else 0, "asksPerTick": 2 if on else 0},
        }

    def _horizontal_pod_autoscaler(self) -> dict[str, Any]:
        """HPA's defaults in demo time: its five minutes are to a start-up here what they are in the world."""
        pool = self._pool
        per_pod = HPA_UTILIZATION / self._stage.frame_floor_s
        limits = (pool.min_replicas, pool.max_replicas)
        down_s = max(1, round(pool.behavior.down_window_s))
        return manifests.horizontal_pod_autoscaler(POOL, limits, metrics_adapter.METRIC, per_pod, down_s, period_s=1)

    def _watch(self, fleet: KubernetesFleet, zero_s: float) -> None:
        """Look once a bin until the traffic ends; the deciding is done elsewhere."""
        stage, timeline = self._stage, self._stage.timeline
        source = DirectScrape(fleet.gateway_url, list(fleet.exporter_urls().values()), BIN_S)
        stage.stack.callback(source.close)
        digests = NodeDigests(fleet.exporter_urls())
        stage.stack.callback(digests.close)
        told = ""
        for number in range(math.ceil(self._settings.duration_s / BIN_S) + 1):
            pause_s = zero_s + number * BIN_S - time.monotonic()
            if pause_s > 0:
                time.sleep(pause_s)
            if number == 0:
                stage.machine.forget()  # the start of a fleet is no part of the replay
            fleet.plane.check()
            t_s = time.monotonic() - zero_s
            digests.refresh()
            reading = source.read(self._pool, t_s)
            decided = self._decided(fleet)
            told_demand = decided.demand_per_s if decided is not None else None
            demand = told_demand if told_demand is not None else _last(reading)
            rate = 1.0 / stage.frame_floor_s
            seen = Seen(t_s, decided, fleet.replicas(POOL), reading, demand, rate, stage.machine.latest)
            found = moment(seen, fleet.ledger, self._nodes, digests.latest)
            timeline.moments.append(found)
            if found.decision is not None and decided is not None and f"{decided.at_s}" != told:
                told = f"{decided.at_s}"
                timeline.decisions.append(found.decision)
            stage.view.update(timeline, found)

    def _decided(self, fleet: KubernetesFleet) -> Decided | None:
        if self._settings.autoscaler == "hpa":
            return hpa_decision(fleet.plane, POOL, time.time())
        decided = our_decision(self._decisions)
        if decided is not None and decided.coverage is not None:
            self._coverage = decided.coverage
        return decided

    def _count(self, address: str) -> None:
        """Keep a pod's counters before it ends."""
        found = renderer_counters(f"{address}:{labels.TRITON_METRICS_PORT}")
        with self._lock:
            for name, value in found.items():
                self._counters[name] = self._counters.get(name, 0.0) + value

    def _collect(self, fleet: KubernetesFleet, pod_seconds: float) -> Run:
        stage = self._stage
        for worker in fleet.kubelet.live():
            if worker.ready and worker.pod.metadata.label(labels.POOL_LABEL):
                self._count(worker.pod_ip)
        warmed = self._warmed(fleet)
        lives = fleet.ledger.listing()
        starts = [life.ready_s - life.asked_s for life in lives if life.ready_s is not None]
        told = stage.told(self._pod_budget_bytes, starts)
        totals = RunTotals(
            pod_seconds=round(pod_seconds, 1),
            bytes_fetched=int(self._counters.get("bytes", 0)) + warmed.remote_bytes,
            scene_hits=int(self._counters.get("hit", 0)),
            scene_misses=int(self._counters.get("miss", 0)),
            failed_starts=sum(life.admission_failed for life in lives),
            forecast_coverage=self._coverage,
            machine_cpu_ratio_p95=stage.machine.percentile(95),
            others_cpu_ratio_p95=stage.machine.others_percentile(95),
            first_frame_s=stage.first_frame_s,
            machine=stage.described,
            load_average_end=os.getloadavg(),
            settings=told | {"kubernetes": fleet.plane.binaries.folder.name},
            warm_peer_bytes=warmed.peer_bytes,
            warm_deadlines_missed=warmed.deadlines_missed if self._warms else None,
            seed=self._settings.seed,
        )
        return stage.run(totals, {life.uid: life.name for life in lives})

    @property
    def _warms(self) -> bool:
        return self._settings.warm_up == "on" and self._settings.autoscaler != "hpa"

    def _warmed(self, fleet: KubernetesFleet) -> WarmTotals:
        """What the scene agents brought to disks; what a pod fetched itself is in its own counters."""
        token = self._stage.folder / "scene-agent-token"
        token.write_text(fleet.agent_token)
        with contextlib.ExitStack() as stack:
            agents = {node: AgentClient(url, BearerTokens(token)) for node, url in fleet.agent_urls().items()}
            for agent in agents.values():
                stack.callback(agent.close)
            return warm_totals(agents)


def _last(reading: Reading) -> float | None:
    """Demand of the newest bin in requests/s; None is no data."""
    if not reading.demand.size or np.isnan(reading.demand[-1]):
        return None
    return float(reading.demand[-1]) / BIN_S
