"""The whole loop on a real Kubernetes: traffic in, replicas, placement and Ready pods out, over a day with two peaks.

Gateway -> real Triton -> exporter -> real Prometheus -> autoscaler -> /scale -> kube-controller-manager ->
kube-scheduler -> our extender over HTTP -> test kubelet -> Ready pods -> gateway.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from fleet.digest import NodeDigest
from local_fleet.child import Child
from local_fleet.kubernetes import manifests
from local_fleet.kubernetes.ledger import PodLife
from local_fleet.kubernetes.manifests import NAMESPACE
from local_fleet.kubernetes.moments import NodeDigests
from local_fleet.kubernetes.prometheus import exposition_of_past
from local_fleet.nodes import POD_PROFILE
from local_fleet.scorecard import read_records
from tests.kubernetes.standing import FRAME_S, SIZE, Standing

pytestmark = [pytest.mark.triton, pytest.mark.prometheus, pytest.mark.timeout(400)]

POOL = "daily"
USUAL_START_S = 5.0  # of a pod, where the day is as long as written here; on a slower machine all of it stretches
MOST_STRETCH = 1.8
DAY_S = 64.0
PEAKS_S = (16.0, 46.0)
PEAK_WIDTH_S = 4.5
BASE_PER_S, PEAK_PER_S = 2.0, 12.0
PAST_DAYS = 6
GAP_S = 8.0  # between the past and the day: Prometheus and the client start in it


def day(stretch: float) -> NDArray[np.float64]:
    """Requests a second, one value a second."""
    t_s = (np.arange(round(DAY_S * stretch)) + 0.5) / stretch
    bumps = sum(np.exp(-(((t_s - at_s) / PEAK_WIDTH_S) ** 2)) for at_s in PEAKS_S)
    return np.asarray(BASE_PER_S + (PEAK_PER_S - BASE_PER_S) * bumps, dtype=np.float64)


@dataclass
class Look:
    """The pool at one moment of the day."""

    t_s: float
    replicas: int
    ready: int


@dataclass
class Day:
    """What was seen of one day. `held` is, for each pod bound, the nodes that could take it and held all its scenes."""

    standing: Standing
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

    def told(self) -> str:
        return " ".join(f"{look.t_s:.0f}:{look.ready}/{look.replicas}" for look in self.looks[::3])


class Watcher:
    """Looks at the fleet a few times a second; remembers where a pod could have gone when it was bound."""

    def __init__(self, day: Day) -> None:
        self._day = day
        self._slices = {node.name: len(node.slices(POD_PROFILE)) for node in day.standing.nodes}
        self._digests = NodeDigests(day.standing.fleet.exporter_urls())
        self._could: frozenset[str] = frozenset()
        self._holds: dict[str, frozenset[str]] = {}

    def look(self, t_s: float) -> None:
        day, fleet = self._day, self._day.standing.fleet
        fleet.plane.check()
        lives = fleet.ledger.listing()
        for life in day.standing.lives(POOL):
            if life.bound_s is not None and life.uid not in day.held and life.bound_s >= day.zero_s:
                # Of the look before: what lay where when kube-scheduler asked.
                holding = {name for name in self._could if set(life.scenes) <= self._holds.get(name, frozenset())}
                day.held[life.uid] = frozenset(holding) if life.scenes else frozenset()
        self._digests.refresh()
        self._holds = {name: held_by(found) for name, found in self._digests.latest.items()}
        used = {name: sum(life.node == name and life.ended_s is None for life in lives) for name in self._slices}
        self._could = frozenset(name for name, count in self._slices.items() if used[name] < count)
        day.looks.append(Look(t_s, fleet.replicas(POOL), len(day.standing.ready(POOL))))

    def close(self) -> None:
        self._digests.close()


def held_by(digest: NodeDigest) -> frozenset[str]:
    """Scenes on a node's disk or in the memory of a pod there, whose file is in the page cache."""
    on_disk = {str(scene.id) for scene in digest.scene_cache.scenes}
    return frozenset(on_disk | {str(scene.id) for pod in digest.pods for scene in pod.resident})


def past(stretch: float) -> Iterator[str]:
    """Days like this one that ended where it will begin, less the seconds until then."""
    counts = np.random.default_rng(1).poisson(np.tile(day(stretch), PAST_DAYS)).astype(np.float64)[: -round(GAP_S)]
    told = {"pool": POOL, "scene": "past", "job": "gateway", "instance": "before"}
    return exposition_of_past(counts, 1.0, time.time(), told)


def replay(standing: Standing, folder: Path) -> Day:
    """Play one day at the gateway and watch; every request has its answer when this returns."""
    starts = [life.ready_s - life.asked_s for life in standing.lives(POOL) if life.ready_s is not None]
    stretch = min(MOST_STRETCH, max(1.0, max(starts) / USUAL_START_S))
    trace, seen, rates = folder / "day.csv", Day(standing, folder / "records.jsonl", stretch), day(stretch)
    trace.write_text("timestamp_s,requests\n" + "".join(f"{t},{count:.4f}\n" for t, count in enumerate(rates)))
    start_unix_s, seen.zero_s = time.time() + GAP_S, time.monotonic() + GAP_S
    standing.fleet.add_past(past(stretch))
    season_s = float(len(rates))
    spec = {
        "minReplicas": 1,
        "maxReplicas": 8,
        "demand": {"serviceSeconds": FRAME_S, "serviceVariation": 0.2},
        "behavior": {"settleSeconds": 2, "staleAfterSeconds": 5, "blindAfterSeconds": 15},
        "warmup": {"podBudgetBytes": round(0.6 * standing.total_bytes)},
        "forecast": {"seasonSeconds": [season_s, 7 * season_s], "startupSeconds": max(starts)},
    }
    standing.fleet.plane.apply(manifests.predictive_autoscaler(POOL, spec))
    flags = {
        "gateway": standing.fleet.gateway_url,
        "pool": POOL,
        "trace": trace,
        "seconds-per-day": 86_400,
        "duration": season_s,
        "mean-rate": float(rates.mean()),
        "catalogue": standing.scenes.catalogue_file,
        "size": "{}x{}".format(*SIZE),
        "seed": 3,
        "records": seen.records,
        "start-at": start_unix_s,
    }
    command = [sys.executable, "-m", "splatfleet", "load", *(f"--{key}={value}" for key, value in flags.items())]
    load, watcher = Child("load", command, folder / "load.log"), Watcher(seen)
    try:
        while (code := load.exit_code()) is None and time.monotonic() < seen.zero_s + season_s + 60.0:
            watcher.look(time.monotonic() - seen.zero_s)
            time.sleep(0.3)
        assert code == 0, load.log_tail()
    finally:
        watcher.close()
        load.stop()
    return seen


class Days:
    """Days of a pool that Kubernetes ran; the pool of the last one is there until the next begins."""

    def __init__(self, standing: Standing, folders: Callable[[], Path]) -> None:
        self._standing, self._folders = standing, folders
        self._pool = ExitStack()
        self._lived: Day | None = None

    def lived(self, anew: bool) -> Day:
        if self._lived is None or anew:
            self.end()
            spec = self._standing.spec(POOL, 1, scenes=self._standing.scenes.ids[:2], gated=True)
            self._pool.enter_context(self._standing.pool(spec))
            self._lived = replay(self._standing, self._folders())
            print(f"day of {len(day(self._lived.stretch))} s, ready/asked by second: {self._lived.told()}")
        return self._lived

    def end(self) -> None:
        self._pool.close()


@pytest.fixture(scope="module")
def days(standing: Standing, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Days]:
    made = Days(standing, lambda: tmp_path_factory.mktemp("closed-loop"))
    try:
        yield made
    finally:
        made.end()


@pytest.fixture
def lived(days: Days, request: pytest.FixtureRequest) -> Day:
    """One day, for all tests; another for a test that is played once more."""
    return days.lived(anew=getattr(request.node, "execution_count", 1) > 1)


def needed(rate_per_s: float) -> float:
    """Pods that are busy all the time at this rate."""
    return rate_per_s * FRAME_S


def test_pods_are_ready_before_the_second_peak(lived: Day) -> None:
    """Capacity for most of the peak stands when demand has climbed to half of it, and it came down in between."""
    half_s = PEAKS_S[1] - PEAK_WIDTH_S * 0.83
    valley = lived.between(PEAKS_S[0] + 8.0, half_s - 5.0)
    assert lived.at(half_s).ready >= 0.8 * needed(PEAK_PER_S), lived.told()
    assert min(look.replicas for look in valley) < max(look.replicas for look in lived.looks), lived.told()


def test_no_request_is_lost_on_the_way_down(lived: Day) -> None:
    records = read_records(lived.records)
    assert len(records) > 0.8 * day(lived.stretch).sum()
    lost = [record for record in records if record.status != 200]
    assert not lost, lost[:5]
    served = {record.pod for record in records}
    assert any(life.uid in served for life in lived.standing.lives(POOL) if life.ended_s is not None), (
        "no pod that served was taken away, so nothing was shown"
    )


def test_pods_land_where_their_scenes_lie(lived: Day) -> None:
    """Of the pods that had a node with a free slice and all their scenes on disk, at least 80 % went to such a node."""
    lives = {life.uid: life for life in lived.standing.lives(POOL)}
    choices: list[tuple[PodLife, frozenset[str]]] = [(lives[uid], held) for uid, held in lived.held.items() if held]
    assert len(choices) >= 2, {lives[uid].name: (lives[uid].scenes, sorted(held)) for uid, held in lived.held.items()}
    right = sum(life.node in held for life, held in choices)
    assert right >= 0.8 * len(choices), [(life.name, life.node, life.scenes, sorted(held)) for life, held in choices]


def test_no_slice_is_given_twice(lived: Day) -> None:
    assert not lived.standing.twice_allocated()
    given = [entry for node in lived.standing.fleet.kubelet.nodes.values() for entry in node.devices.history]
    assert len(given) >= 4, "too few pods to show anything"


def test_every_part_of_the_loop_was_the_real_one(lived: Day) -> None:
    """The count was written through /scale, and Events say that the scheduler with our extender bound the pods."""
    plane = lived.standing.fleet.plane
    deployment = plane.request("GET", f"/apis/apps/v1/namespaces/{NAMESPACE}/deployments/{POOL}")
    writers = [(row.get("manager"), row.get("subresource")) for row in deployment["metadata"]["managedFields"]]
    assert ("splatfleet", "scale") in writers
    events = plane.request("GET", f"/api/v1/namespaces/{NAMESPACE}/events?limit=2000")["items"]
    reasons = {
        (event["reason"], event.get("reportingComponent") or event["source"].get("component")) for event in events
    }
    assert ("Scheduled", manifests.PLACEMENT_SCHEDULER) in reasons
    assert {"ScaledUp", "ScaledDown"} <= {reason for reason, _ in reasons}, sorted(reasons)
