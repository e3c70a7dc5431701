"""A demo on the local fleet: real Triton pods render, our own cores scale and place them."""

from __future__ import annotations

import math
import os
import time
from concurrent.futures import Future

from autoscaler.boosting import Refitter
from autoscaler.loop import Memory, tick
from autoscaler.scrape import DirectScrape
from local_fleet.cluster import LocalCluster
from local_fleet.demo_plan import POOL, make_pool, popularity
from local_fleet.first_visitor import FirstVisitors, Premieres, Visits, make_premieres
from local_fleet.moments import moment
from local_fleet.nodes import make_nodes
from local_fleet.pods import Pods, PodSettings
from local_fleet.replay import BIN_S
from local_fleet.report import Run
from local_fleet.scheduling import ExtenderScheduler, Scheduler, SpreadScheduler
from local_fleet.scorecard import RunTotals
from local_fleet.stack import Stack, start_stack
from local_fleet.stage import LAST_ANSWERS_S, Stage
from local_fleet.triton_server import build_backends
from renderer.agent_client import AgentClient
from renderer.credentials import BearerTokens


class LocalPlay:
    """One demo on the local fleet, from the first node to the last answer."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.premieres: Premieres | None = None
        self.visitors: FirstVisitors | None = None
        self.visits: Visits | None = None

    def to_the_end(self) -> Run:
        """Start everything, replay the traffic, collect what it came to."""
        pods, parts = self._start_fleet()
        cluster = self._start_cluster(pods, parts)
        self.visits = self._first_visitors(cluster, pods)
        load, zero_s = self.stage.start_load(parts.gateway_url)
        memory = self._replay(cluster, pods, parts, zero_s)
        pod_seconds = pods.pod_seconds(zero_s, pods.now_s())
        code = load.wait(LAST_ANSWERS_S)
        if code != 0:
            raise RuntimeError(f"the load client ended with {code}: {load.log_tail()}")
        return self._collect(cluster, pods, memory, pod_seconds)

    def _start_fleet(self) -> tuple[Pods, Stack]:
        """Nodes, control plane and the pods that the first seconds need."""
        settings = self.stage.settings
        total_bytes = sum(self.stage.scenes.resident_bytes.values())
        largest_bytes = max(self.stage.scenes.resident_bytes.values())
        fleet_catalogue = self.stage.scenes.catalogue_file
        if settings.visit_lead_s > 0:
            self.premieres = make_premieres(
                self.stage.folder / "premieres", self.stage.scenes.catalogue, settings.fetch_bytes_per_s, settings.seed
            )
            fleet_catalogue = self.premieres.catalogue_file
            largest_bytes = max(largest_bytes, self.premieres.resident_bytes)
        # A pod holds about half of the scenes, a node's disk (source and packed layout) about two thirds.
        self.pod_budget_bytes = max(round(1.05 * largest_bytes), round(0.5 * total_bytes))
        nodes = make_nodes(self.stage.folder, max(round(2.5 * largest_bytes), round(1.3 * total_bytes)), settings.seed)
        self.stage.view.note(
            "starting three nodes, an exporter and a scene agent on each, the extender and the gateway"
        )
        renderers_file = self.stage.folder / "renderers.json"
        parts = start_stack(
            self.stage.stack,
            self.stage.folder,
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
            run_folder=self.stage.folder,
            provision_s=settings.provision_s,
            frame_floor_s=self.stage.frame_floor_s,
            budget_bytes=self.pod_budget_bytes,
            fetch_bytes_per_s=settings.fetch_bytes_per_s,
            frame_size=self.stage.fit.size,
            seed=settings.seed,
            agent_urls=parts.agent_urls,
            agent_token_file=parts.token_file,
        )
        pods = Pods(pod_settings, nodes, scheduler, self.stage.view.note)
        self.stage.stack.callback(pods.close)
        return pods, parts

    def _start_cluster(self, pods: Pods, parts: Stack) -> LocalCluster:
        pool = make_pool(self.stage.settings, self.stage.frame_floor_s, self.stage.traffic.day_s, self.pod_budget_bytes)
        source = DirectScrape(parts.gateway_url, list(parts.exporter_urls.values()), BIN_S)
        self.stage.stack.callback(source.close)
        cluster = LocalCluster(
            pool,
            pods,
            source,
            parts.exporter_urls,
            self.stage.scenes.catalogue,
            self.stage.traffic.history,
            self._agents(parts),
            self.stage.machine.starved,
        )
        self.stage.stack.callback(cluster.close)
        told_pod = self._predict_visit(cluster, pods, parts)
        count = max(1, math.ceil(self.stage.traffic.first_per_s * self.stage.frame_floor_s / 0.6))
        self.stage.view.note(f"starting {count} pods, each a Triton server of its own")
        begun_s = time.monotonic()
        cluster.begin(count, popularity(self.stage.scenes.ids, self.stage.settings.seed))
        if told_pod is not None:
            told_pod.result()
        self.stage.view.note(f"{len(pods.listing())} pods ready in {time.monotonic() - begun_s:.1f} s")
        self.stage.first_frame(parts.gateway_url)
        return cluster

    def _predict_visit(self, cluster: LocalCluster, pods: Pods, parts: Stack) -> Future[None] | None:
        """Tell an empty node of the visit that is to come; the pod that starts there knows nothing of it."""
        settings = self.stage.settings
        if self.premieres is None:
            return None
        self.visitors = FirstVisitors(
            self.premieres, parts.gateway_url, settings.visit_lead_s, settings.fetch_bytes_per_s
        )
        if settings.warm_up == "off":
            return None
        node = list(pods.nodes)[-1]
        self.visitors.predict(cluster, node)
        self.stage.view.note(f"predicted: in {settings.visit_lead_s:.0f} s somebody visits a new scene; {node} is told")
        return pods.start((), only_on=node)

    def _first_visitors(self, cluster: LocalCluster, pods: Pods) -> Visits | None:
        if self.visitors is None:
            return None
        visits = self.visitors.visit(cluster, pods, self.stage.view.note)
        self.stage.view.note(visits.told())
        return visits

    def _agents(self, parts: Stack) -> dict[str, AgentClient] | None:
        """The nodes' scene agents, where warm-up is on."""
        if self.stage.settings.warm_up == "off":
            return None
        tokens = BearerTokens(parts.token_file)
        agents = {node: AgentClient(url, tokens) for node, url in parts.agent_urls.items()}
        for agent in agents.values():
            self.stage.stack.callback(agent.close)
        return agents

    def _replay(self, cluster: LocalCluster, pods: Pods, parts: Stack, zero_s: float) -> Memory:
        """Tick once a bin until the traffic ends; fits go on in the background, as `splatfleet autoscaler` has them."""
        memory, refitter = Memory(), Refitter()
        self.stage.stack.callback(refitter.close)
        timeline = self.stage.timeline
        for number in range(math.ceil(self.stage.settings.duration_s / BIN_S) + 1):
            pause_s = zero_s + number * BIN_S - time.monotonic()
            if pause_s > 0:
                time.sleep(pause_s)
            if number == 0:
                self.stage.machine.forget()  # the start of a fleet is no part of the replay
            if dead := parts.dead():
                raise RuntimeError("; ".join(dead))
            refitter.exchange(memory)
            t_s = time.monotonic() - zero_s
            decision = tick(cluster, memory, t_s)[0]
            seen = moment(t_s, cluster, pods, decision, 1.0 / self.stage.frame_floor_s, self.stage.machine.latest)
            timeline.moments.append(seen)
            if seen.decision is not None:
                timeline.decisions.append(seen.decision)
            self.stage.view.update(timeline, seen)
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
            machine_cpu_ratio_p95=self.stage.machine.percentile(95),
            others_cpu_ratio_p95=self.stage.machine.others_percentile(95),
            first_frame_s=self.stage.first_frame_s,
            machine=self.stage.described,
            load_average_end=os.getloadavg(),
            settings=self.stage.told(self.pod_budget_bytes, starts),
            warm_peer_bytes=warmed.peer_bytes,
            warm_deadlines_missed=warmed.deadlines_missed if self.stage.settings.warm_up == "on" else None,
            seed=self.stage.settings.seed,
            visits=self.visits,
        )
        return self.stage.run(totals)
