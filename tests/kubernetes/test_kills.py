"""Each part of the loop is killed, one at a time, under traffic; what must hold holds, and the loop comes back.

The tests run in the order of this file, on one fleet.
"""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

import httpx2
import pytest

from fleet import labels, metrics
from local_fleet.control_plane.binaries import BinariesError, find
from local_fleet.kubelet.pod_worker import PodWorker
from local_fleet.kubelet.surroundings import Provisioning
from local_fleet.kubernetes import manifests
from local_fleet.kubernetes.fleet import Flags, FleetSettings, KubernetesFleet
from local_fleet.kubernetes.manifests import NAMESPACE, PoolSpec
from local_fleet.kubernetes.prometheus import NoPrometheus, program
from local_fleet.nodes import make_nodes
from local_fleet.orbits import encode_bodies, orbit_of
from local_fleet.scenes import gather
from tests.gateway.triton_pods import triton_backends
from tests.kubernetes.fleet import eventually

pytestmark = [pytest.mark.triton, pytest.mark.prometheus, pytest.mark.timeout(300)]

PODS = 3
EVERY_S = 0.2
LEASE_S = 5.0


class Traffic:
    """Requests at a steady rate, each in its own thread; what became of them."""

    def __init__(self, url: str, body: bytes) -> None:
        self.answers: list[tuple[float, int]] = []
        self._url = f"{url}/v1/render"
        self._body = body
        self._client = httpx2.Client(timeout=30.0, trust_env=False)
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._stopping.set()
        self._thread.join(5)
        self._client.close()

    def lost_since(self, begun_s: float) -> list[tuple[float, int]]:
        """Requests without a frame that began after a moment."""
        return [answer for answer in list(self.answers) if answer[0] >= begun_s and answer[1] != 200]

    def _run(self) -> None:
        while not self._stopping.wait(EVERY_S):
            threading.Thread(target=self._ask, daemon=True).start()

    def _ask(self) -> None:
        begun_s = time.monotonic()
        try:
            status = self._client.post(
                self._url, content=self._body, headers={"content-type": "application/json"}
            ).status_code
        except httpx2.HTTPError:
            status = 0
        if not self._stopping.is_set():
            self.answers.append((begun_s, status))


class Rig:
    """A fleet with steady traffic, and hands to kill with."""

    def __init__(self, fleet: KubernetesFleet, traffic: Traffic, decisions: Path) -> None:
        self.fleet = fleet
        self.traffic = traffic
        self.decisions = decisions

    def worker(self, component: str) -> PodWorker:
        found = [
            worker
            for worker in self.fleet.kubelet.live()
            if worker.pod.metadata.label(labels.COMPONENT_LABEL) == component
            or (component == "renderer" and worker.pod.metadata.label(labels.POOL_LABEL) and worker.ready)
        ]
        return found[0]

    def kill(self, component: str, container: int = 0) -> PodWorker:
        worker = self.worker(component)
        os.killpg(worker.processes()[container].pid, signal.SIGKILL)
        return worker

    def whole(self) -> bool:
        """Every pod that is wanted is ready, and the count was never lowered."""
        return self.fleet.ledger.ready() >= self.fleet.replicas("renderer") >= PODS

    def lease(self) -> dict[str, Any]:
        path = f"/apis/coordination.k8s.io/v1/namespaces/{NAMESPACE}/leases/splatfleet-autoscaler"
        found: dict[str, Any] = self.fleet.plane.request("GET", path)["spec"]
        return found

    def decided_after(self, moment_s: float) -> bool:
        """Whether a decision from data was made after a Unix time."""
        try:
            row = json.loads(self.decisions.read_text())["decisions"][0]
        except (OSError, ValueError, KeyError, IndexError):
            return False
        return bool(row["now_s"] > moment_s and row["demand_per_s"] is not None)


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    try:
        find(), program("prometheus")
    except (BinariesError, NoPrometheus) as error:
        pytest.skip(str(error))
    folder = tmp_path_factory.mktemp("kills")
    scenes = gather(None, False, folder, 1, lambda _: None)
    total_bytes = sum(scenes.resident_bytes.values())
    decisions = folder / "decisions.json"
    flags = Flags(
        exporter=("--window-s=10",),
        scene_agent=(f"--capacity-gb={2 * total_bytes / 1e9!r}", f"--catalogue={scenes.catalogue_file}"),
        gateway=(f"--catalogue={scenes.catalogue_file}", "--pool=renderer"),
        autoscaler=(
            *("--interval-s=1", "--bin-s=1", "--history-days=0.01", "--drain-s=1"),
            *(f"--lease-s={LEASE_S}", f"--json={decisions}"),
        ),
        controllers=("--node-monitor-grace-period=8s", "--node-monitor-period=1s"),
    )
    nodes = make_nodes(folder, 2 * total_bytes, 1)
    wanted = FleetSettings(folder, triton_backends(), nodes, Provisioning(0.5, 0.1, Random(1)), flags)
    environment = {
        labels.CATALOGUE_ENV: str(scenes.catalogue_file),
        labels.STORE_CAPACITY_ENV: str(2 * total_bytes),
        labels.POD_BUDGET_ENV: str(total_bytes),
        labels.DEFAULT_SIZE_ENV: "64x48",
        labels.RASTERIZER_ENV: "cpu",
        "SPLATFLEET_RENDER_THREADS": "1",
        "OMP_NUM_THREADS": "1",
        "NUMBA_NUM_THREADS": "1",
    }
    pool = PoolSpec(environment, PODS, scenes.ids[:1], scheduler=manifests.PLACEMENT_SCHEDULER, gated=True)
    spec = {"minReplicas": PODS, "maxReplicas": 6}
    entry = next(iter(scenes.catalogue.entries.values()))
    body = encode_bodies(orbit_of(entry), (64, 48), {"format": "jpeg"}, poses=1)[0]
    with KubernetesFleet(wanted) as fleet:
        fleet.start_pool(pool)
        fleet.start_prometheus()
        fleet.plane.apply(manifests.predictive_autoscaler("renderer", spec))
        traffic = Traffic(fleet.gateway_url, body)
        made = Rig(fleet, traffic, decisions)
        try:
            begun_s = time.time()
            eventually(lambda: made.decided_after(begun_s), 30, "the first decision from data")
            yield made
        finally:
            traffic.stop()


def comes_back(rig: Rig, holds: Callable[[], Any], within_s: float, what: str) -> float:
    """Seconds until it holds; the fleet is whole again then."""
    begun_s = time.monotonic()
    eventually(lambda: holds() and rig.whole(), within_s, what)
    took_s = time.monotonic() - begun_s
    print(f"{what}: {took_s:.1f} s, {len(rig.traffic.lost_since(begun_s))} requests lost")
    return took_s


def test_the_extender_is_killed(rig: Rig) -> None:
    begun_s = time.monotonic()
    worker = rig.kill("extender")
    comes_back(rig, lambda: worker.ready and worker.restarts, 40, "extender killed")
    assert not rig.traffic.lost_since(begun_s)


def test_the_exporter_is_killed(rig: Rig) -> None:
    begun_s = time.monotonic()
    worker = rig.kill(labels.NODE_COMPONENT)
    comes_back(rig, lambda: worker.ready and worker.restarts, 40, "exporter killed")
    assert not rig.traffic.lost_since(begun_s)


def test_the_leading_autoscaler_is_killed_and_never_two_lead(rig: Rig) -> None:
    begun_s, before, unix_s = time.monotonic(), rig.lease(), time.time()
    rig.kill("autoscaler")
    comes_back(rig, lambda: rig.decided_after(unix_s + 1) and rig.lease()["holderIdentity"] != before["holderIdentity"],
               60, "leading autoscaler killed")  # fmt: skip
    assert rig.lease()["leaseTransitions"] == before["leaseTransitions"] + 1
    assert not rig.traffic.lost_since(begun_s)


def test_prometheus_is_killed_and_nothing_is_scaled_by_its_absence(rig: Rig) -> None:
    begun_s = time.monotonic()
    assert rig.fleet.prometheus is not None
    os.kill(rig.fleet.prometheus.pid, signal.SIGKILL)
    end_s = time.monotonic() + 8.0
    while time.monotonic() < end_s:
        assert rig.fleet.replicas("renderer") >= PODS
        time.sleep(0.5)
    unix_s = time.time()
    rig.fleet.restart_prometheus()
    comes_back(rig, lambda: rig.decided_after(unix_s), 40, "Prometheus killed, 8 s without")
    assert not rig.traffic.lost_since(begun_s)


def test_the_api_server_is_away_for_thirty_seconds(rig: Rig) -> None:
    begun_s = time.monotonic()
    os.kill(rig.fleet.plane.pid("kube-apiserver"), signal.SIGKILL)
    time.sleep(30.0)
    unix_s = time.time()
    rig.fleet.plane.restart_program("kube-apiserver")
    rig.fleet.plane.wait_ready()
    comes_back(rig, lambda: rig.decided_after(unix_s), 60, "API server killed, 30 s without")
    assert not rig.traffic.lost_since(begun_s), "frames need no API server"


def test_a_renderer_is_killed(rig: Rig) -> None:
    """What it had in hand may be lost; nothing after that is."""
    begun_s = time.monotonic()
    worker = rig.kill("renderer")
    comes_back(rig, lambda: worker.ready and worker.restarts, 60, "renderer killed")
    lost = rig.traffic.lost_since(begun_s - 1.0)
    assert len(lost) <= 2, lost


def test_a_node_falls_silent(rig: Rig) -> None:
    """Its pods are replaced elsewhere; no reservation stays behind."""
    node = rig.worker("renderer").pod.spec.node_name
    begun_s, gone = time.monotonic(), node
    rig.fleet.kubelet.lose_node(node)

    def elsewhere() -> bool:
        lives = [life for life in rig.fleet.ledger.alive() if life.ready and life.node != gone]
        return len(lives) >= PODS

    eventually(elsewhere, 90, "its pods run elsewhere")
    print(f"node lost: {time.monotonic() - begun_s:.1f} s, {len(rig.traffic.lost_since(begun_s - 1))} requests lost")
    settled_s = time.monotonic() + 3.0
    eventually(lambda: time.monotonic() > settled_s, 10)
    assert not rig.traffic.lost_since(settled_s - 2.0)
    address = rig.fleet.address("extender")
    text = httpx2.get(f"http://{address}:{labels.EXTENDER_PORT}/metrics", trust_env=False).text
    kept = [metrics.EXTENDER_RESERVATIONS.name, metrics.EXTENDER_RESERVATION_LEAKS.name]
    values = [float(line.split()[1]) for name in kept for line in text.splitlines() if line.startswith(f"{name} ")]
    assert values == [0.0, 0.0]
