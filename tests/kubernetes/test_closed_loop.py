"""The whole loop on a real Kubernetes: traffic in, replicas, placement and Ready pods out, over a day with two peaks.

Gateway -> real Triton -> exporter -> real Prometheus -> autoscaler -> /scale -> kube-controller-manager ->
kube-scheduler -> our extender over HTTP -> test kubelet -> Ready pods -> gateway.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

import numpy as np
import pytest
from numpy.typing import NDArray

from fleet import labels
from local_fleet.child import Child
from local_fleet.control_plane.binaries import BinariesError, find
from local_fleet.kubelet.surroundings import Provisioning
from local_fleet.kubernetes import manifests
from local_fleet.kubernetes.fleet import Flags, FleetSettings, KubernetesFleet
from local_fleet.kubernetes.ledger import PodLife
from local_fleet.kubernetes.manifests import NAMESPACE, PoolSpec
from local_fleet.kubernetes.moments import NodeDigests
from local_fleet.kubernetes.prometheus import NoPrometheus, exposition_of_past, program
from local_fleet.nodes import POD_PROFILE, LocalNode, make_nodes
from local_fleet.scenes import gather
from local_fleet.scorecard import read_records
from tests.gateway.triton_pods import triton_backends

pytestmark = [pytest.mark.triton, pytest.mark.prometheus, pytest.mark.timeout(540)]

USUAL_START_S = 5.0  # of a pod, where the day is as long as written here; on a slower machine all of it stretches
DAY_S = 70.0
PEAKS_S = (18.0, 50.0)
PEAK_WIDTH_S = 4.5
BASE_PER_S, PEAK_PER_S = 2.0, 12.0
PAST_DAYS = 6
FRAME_S = 0.25  # a frame keeps its slice busy at least that long
PROVISION_S = 1.0
GAP_S = 8.0  # between the past and the day: Prometheus and the client start in it


def day(stretch: float) -> NDArray[np.float64]:
    """Requests a second, one value a second."""
    t_s = (np.arange(round(DAY_S * stretch)) + 0.5) / stretch
    bumps = sum(np.exp(-(((t_s - at_s) / PEAK_WIDTH_S) ** 2)) for at_s in PEAKS_S)
    return np.asarray(BASE_PER_S + (PEAK_PER_S - BASE_PER_S) * bumps, dtype=np.float64)


@dataclass
class Look:
    """The fleet at one moment of the day."""

    t_s: float
    replicas: int
    ready: int


@dataclass
class Day:
    """What was seen of one day. `held` is, for each pod bound, the nodes that could take it and held all its scenes."""

    fleet: KubernetesFleet
    records: Path
    stretch: float
    looks: list[Look] = field(default_factory=list)
    held: dict[str, frozenset[str]] = field(default_factory=dict)
    zero_s: float = 0.0

    def at(self, t_s: float) -> Look:
        """The look nearest to a time of the day as written above."""
        return min(self.looks, key=lambda look: abs(look.t_s - t_s * self.stretch))

    def between(self, start_s: float, end_s: float) -> list[Look]:
        return [look for look in self.looks if start_s * self.stretch <= look.t_s <= end_s * self.stretch]


class Watcher:
    """Looks at the fleet a few times a second; remembers where a pod could have gone when it was bound."""

    def __init__(self, day: Day, nodes: list[LocalNode]) -> None:
        self._day = day
        self._slices = {node.name: len(node.slices(POD_PROFILE)) for node in nodes}
        self._digests = NodeDigests(day.fleet.exporter_urls())
        self._could: frozenset[str] = frozenset()
        self._disks: dict[str, frozenset[str]] = {}

    def look(self, t_s: float) -> None:
        fleet, day = self._day.fleet, self._day
        fleet.plane.check()
        for life in fleet.ledger.listing():
            if life.bound_s is not None and life.uid not in day.held and life.bound_s >= day.zero_s:
                # Of the look before: what lay where when kube-scheduler asked.
                holding = {name for name in self._could if set(life.scenes) <= self._disks.get(name, frozenset())}
                day.held[life.uid] = frozenset(holding) if life.scenes else frozenset()
        self._digests.refresh()
        self._disks = {
            name: frozenset(str(scene.id) for scene in found.scene_cache.scenes)
            for name, found in self._digests.latest.items()
        }
        lives = fleet.ledger.listing()
        used = {name: sum(life.node == name and life.ended_s is None for life in lives) for name in self._slices}
        self._could = frozenset(name for name, count in self._slices.items() if used[name] < count)
        day.looks.append(Look(t_s, fleet.replicas("renderer"), fleet.ledger.ready()))

    def close(self) -> None:
        self._digests.close()


def settings(folder: Path) -> tuple[FleetSettings, PoolSpec, dict[str, object]]:
    """The fleet, its pool, and the PredictiveAutoscaler's spec."""
    scenes = gather(None, False, folder, 1, lambda _: None)
    total_bytes = sum(scenes.resident_bytes.values())
    store_bytes, budget_bytes = round(1.3 * total_bytes), round(0.6 * total_bytes)
    nodes = make_nodes(folder, store_bytes, 1)
    catalogue = scenes.catalogue_file
    flags = Flags(
        exporter=("--window-s=10",),
        scene_agent=(f"--capacity-gb={store_bytes / 1e9!r}", f"--catalogue={catalogue}"),
        gateway=(f"--catalogue={catalogue}", "--pool=renderer", "--hold-s=40"),
        autoscaler=("--interval-s=1", "--bin-s=1", "--history-days=0.02", "--drain-s=1"),
    )
    fleet = FleetSettings(folder, triton_backends(), nodes, Provisioning(PROVISION_S, 0.2, Random(1)), flags)
    environment = {
        labels.CATALOGUE_ENV: str(catalogue),
        labels.STORE_CAPACITY_ENV: str(store_bytes),
        labels.POD_BUDGET_ENV: str(budget_bytes),
        labels.FRAME_FLOOR_ENV: str(FRAME_S),
        labels.DEFAULT_SIZE_ENV: "64x48",
        labels.RASTERIZER_ENV: "cpu",
        "SPLATFLEET_RENDER_THREADS": "1",
        "OMP_NUM_THREADS": "1",
        "NUMBA_NUM_THREADS": "1",
    }
    pool = PoolSpec(environment, 1, scenes.ids[:2], scheduler=manifests.PLACEMENT_SCHEDULER, gated=True)
    spec = {
        "minReplicas": 1,
        "maxReplicas": 8,
        "demand": {"serviceSeconds": FRAME_S, "serviceVariation": 0.2},
        "behavior": {"settleSeconds": 2, "staleAfterSeconds": 5, "blindAfterSeconds": 15},
        "warmup": {"podBudgetBytes": budget_bytes},
    }
    return fleet, pool, spec


def past(stretch: float) -> Iterator[str]:
    """Days like this one that ended where it will begin, less the seconds until then."""
    counts = np.random.default_rng(1).poisson(np.tile(day(stretch), PAST_DAYS)).astype(np.float64)[: -round(GAP_S)]
    told = {"pool": "renderer", "scene": "past", "job": "gateway", "instance": "before"}
    return exposition_of_past(counts, 1.0, time.time(), told)


def replay(fleet: KubernetesFleet, spec: dict[str, object], folder: Path, nodes: list[LocalNode]) -> Day:
    """Play one day at the gateway and watch; every request has its answer when this returns."""
    starts = [life.ready_s - life.asked_s for life in fleet.ledger.listing() if life.ready_s is not None]
    stretch = min(3.0, max(1.0, max(starts) / USUAL_START_S))
    trace, seen, rates = folder / "day.csv", Day(fleet, folder / "records.jsonl", stretch), day(stretch)
    trace.write_text("timestamp_s,requests\n" + "".join(f"{t},{count:.4f}\n" for t, count in enumerate(rates)))
    start_unix_s, seen.zero_s = time.time() + GAP_S, time.monotonic() + GAP_S
    fleet.start_prometheus(past(stretch))
    season_s = float(len(rates))
    spec["forecast"] = {"seasonSeconds": [season_s, 7 * season_s], "startupSeconds": max(starts)}
    fleet.plane.apply(manifests.predictive_autoscaler("renderer", spec))
    flags = {
        "gateway": fleet.gateway_url,
        "trace": trace,
        "seconds-per-day": 86_400,
        "duration": season_s,
        "mean-rate": float(rates.mean()),
        "catalogue": folder / "catalogue.json",
        "size": "64x48",
        "seed": 3,
        "records": seen.records,
        "start-at": start_unix_s,
    }
    command = [sys.executable, "-m", "splatfleet", "load", *(f"--{key}={value}" for key, value in flags.items())]
    load, watcher = Child("load", command, folder / "load.log"), Watcher(seen, nodes)
    try:
        while (code := load.exit_code()) is None and time.monotonic() < seen.zero_s + season_s + 60.0:
            watcher.look(time.monotonic() - seen.zero_s)
            time.sleep(0.3)
        assert code == 0, load.log_tail()
    finally:
        watcher.close()
        load.stop()
    return seen


@pytest.fixture(scope="module")
def lived(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Day]:
    """One day of a fleet that Kubernetes ran."""
    try:
        find(), program("prometheus"), program("promtool")
    except (BinariesError, NoPrometheus) as error:
        pytest.skip(str(error))
    folder = tmp_path_factory.mktemp("closed-loop")
    wanted, pool, spec = settings(folder)
    with KubernetesFleet(wanted) as fleet:
        fleet.start_pool(pool)
        yield replay(fleet, spec, folder, list(wanted.nodes))


def needed(rate_per_s: float) -> float:
    """Pods that are busy all the time at this rate."""
    return rate_per_s * FRAME_S


def test_pods_are_ready_before_the_second_peak(lived: Day) -> None:
    """Capacity for most of the peak stands when demand has climbed to half of it, and it came down in between."""
    half_s = PEAKS_S[1] - PEAK_WIDTH_S * 0.83
    before, valley = lived.at(half_s), lived.between(PEAKS_S[0] + 10.0, half_s - 6.0)
    assert before.ready >= 0.8 * needed(PEAK_PER_S), [
        f"{look.t_s:.0f}:{look.ready}/{look.replicas}" for look in lived.looks
    ]
    assert min(look.replicas for look in valley) < max(look.replicas for look in lived.looks)


def test_no_request_is_lost_on_the_way_down(lived: Day) -> None:
    records = read_records(lived.records)
    assert len(records) > 0.8 * day(lived.stretch).sum()
    lost = [record for record in records if record.status != 200]
    assert not lost, lost[:5]
    ended = [life for life in lived.fleet.ledger.listing() if life.ended_s is not None]
    assert ended, "no pod was taken away, so nothing was shown"
    served = {record.pod for record in records}
    assert served & {life.uid for life in ended}, "no pod that served was taken away"


def test_pods_land_where_their_scenes_lie(lived: Day) -> None:
    """Of the pods that had a node with a free slice and all their scenes on disk, at least 80 % went to such a node."""
    lives = {life.uid: life for life in lived.fleet.ledger.listing()}
    choices: list[tuple[PodLife, frozenset[str]]] = [(lives[uid], held) for uid, held in lived.held.items() if held]
    assert len(choices) >= 2, {lives[uid].name: (lives[uid].scenes, sorted(held)) for uid, held in lived.held.items()}
    right = sum(life.node in held for life, held in choices)
    assert right >= 0.8 * len(choices), [(life.name, life.node, life.scenes, sorted(held)) for life, held in choices]


def test_no_slice_is_given_twice(lived: Day) -> None:
    assert not any(life.admission_failed for life in lived.fleet.ledger.listing())
    assert all(not worker.failure for worker in lived.fleet.kubelet.workers.values())
    given = [entry for node in lived.fleet.kubelet.nodes.values() for entry in node.devices.history]
    assert len(given) >= 4, "too few pods to show anything"


def test_every_part_of_the_loop_was_the_real_one(lived: Day) -> None:
    """The count was written through /scale, and Events say that the scheduler with our extender bound the pods."""
    deployment = lived.fleet.plane.request("GET", f"/apis/apps/v1/namespaces/{NAMESPACE}/deployments/renderer")
    writers = [(row.get("manager"), row.get("subresource")) for row in deployment["metadata"]["managedFields"]]
    assert ("splatfleet", "scale") in writers
    events = lived.fleet.plane.request("GET", f"/api/v1/namespaces/{NAMESPACE}/events?limit=2000")["items"]
    reasons = {
        (event["reason"], event.get("reportingComponent") or event["source"].get("component")) for event in events
    }
    assert ("Scheduled", manifests.PLACEMENT_SCHEDULER) in reasons
    assert {"ScaledUp", "ScaledDown"} <= {reason for reason, _ in reasons}, sorted(reasons)
