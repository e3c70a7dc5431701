"""One whole fleet on a control plane of its own, which the tests of the loop share: each with a pool of its own."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from random import Random
from typing import Any

from fleet import labels
from fleet.digest import Slice
from kube.objects import PODS, Pod
from kube.reflector import Reflector, Scope, Timings
from local_fleet.kubelet.surroundings import Provisioning
from local_fleet.kubernetes import manifests
from local_fleet.kubernetes.fleet import Flags, FleetSettings, KubernetesFleet
from local_fleet.kubernetes.ledger import PodLife
from local_fleet.kubernetes.manifests import NAMESPACE, PoolSpec
from local_fleet.nodes import LocalNode, make_nodes
from local_fleet.orbits import encode_bodies, orbit_of
from local_fleet.scenes import DemoScenes, gather
from tests.kubernetes.fleet import eventually
from tests.kubernetes.traffic import Traffic

FRAME_S = 0.25  # a frame keeps its slice busy at least that long
PROVISION_S = 1.0
LEASE_S = 5.0
POOLS = ("daily", "versions", "green", "steady", "interactive", "batch")
SIZE = (64, 48)
SCARCE_NODE = "node-2"  # two small slices, the others have seven


class Standing:
    """The fleet, its scenes, and the words of the tests."""

    def __init__(self, fleet: KubernetesFleet, scenes: DemoScenes, folder: Path, nodes: Sequence[LocalNode]) -> None:
        self.fleet = fleet
        self.scenes = scenes
        self.folder = folder
        self.nodes = nodes
        self.total_bytes = sum(scenes.resident_bytes.values())
        scope = Scope(NAMESPACE, label_selector=f"{labels.COMPONENT_LABEL}=gateway")
        timings = Timings(backoff_first_s=0.1, backoff_most_s=1.0)
        self.gateways: Reflector[Pod] = Reflector(fleet.connection, PODS, scope, timings=timings)
        self.gateways.start()

    def spec(self, name: str, replicas: int, environment: Mapping[str, str] | None = None, **changes: Any) -> PoolSpec:
        """A pool whose pods hold the first scene; `changes` are those of a PoolSpec."""
        told = {
            labels.CATALOGUE_ENV: str(self.scenes.catalogue_file),
            labels.STORE_CAPACITY_ENV: str(round(1.3 * self.total_bytes)),
            labels.POD_BUDGET_ENV: str(round(0.6 * self.total_bytes)),
            labels.FRAME_FLOOR_ENV: str(FRAME_S),
            labels.DEFAULT_SIZE_ENV: "{}x{}".format(*SIZE),
            labels.RASTERIZER_ENV: "cpu",
            "SPLATFLEET_RENDER_THREADS": "1",
            "OMP_NUM_THREADS": "1",
            "NUMBA_NUM_THREADS": "1",
        }
        known: dict[str, Any] = {"scenes": self.scenes.ids[:1], "scheduler": manifests.PLACEMENT_SCHEDULER}
        return PoolSpec(told | dict(environment or {}), replicas, name=name, **known | changes)

    @contextmanager
    def pool(self, spec: PoolSpec, autoscaler: Mapping[str, Any] | None = None) -> Iterator[None]:
        """A pool from its first ready pods until none of it is left."""
        try:
            self.fleet.start_pool(spec)
            if autoscaler is not None:
                self.fleet.plane.apply(manifests.predictive_autoscaler(spec.name, autoscaler))
            yield
        finally:
            plural = f"/apis/splatfleet.io/v1alpha1/namespaces/{NAMESPACE}/predictiveautoscalers/{spec.name}"
            if self.fleet.plane.exists(plural):
                self.fleet.plane.request("DELETE", plural)
            self.fleet.plane.request("DELETE", f"/apis/apps/v1/namespaces/{NAMESPACE}/deployments/{spec.name}")
            eventually(lambda: not self.alive(spec.name, ended=True), 60, f"every pod of {spec.name} has ended")

    def traffic(self, pool: str, rate_per_s: float, scene: str | None = None) -> Traffic:
        """Requests for one scene from several sides."""
        return Traffic(self.gateways, self.bodies(pool, scene or self.scenes.ids[0]), rate_per_s)

    def bodies(self, pool: str, scene: str) -> list[bytes]:
        entry = next(found for found in self.scenes.catalogue.entries.values() if found.id == scene)
        return encode_bodies(orbit_of(entry), SIZE, {"format": "jpeg", **({"pool": pool} if pool else {})}, poses=4)

    def lives(self, pool: str) -> list[PodLife]:
        return [life for life in self.fleet.ledger.listing() if life.pool == pool]

    def alive(self, pool: str, ended: bool = False) -> list[PodLife]:
        """Pods that were not told to end; with `ended` those that have not ended either."""
        return [life for life in self.lives(pool) if life.ended_s is None and (ended or life.draining_s is None)]

    def ready(self, pool: str) -> list[PodLife]:
        return [life for life in self.alive(pool) if life.ready]

    def autoscaler_status(self, pool: str) -> dict[str, Any]:
        path = f"/apis/splatfleet.io/v1alpha1/namespaces/{NAMESPACE}/predictiveautoscalers/{pool}"
        found: dict[str, Any] = (self.fleet.plane.request("GET", path) if self.fleet.plane.exists(path) else {}) or {}
        return found.get("status") or {}

    def rolled(self, deployment: str, within_s: float = 120.0) -> None:
        """Wait until a Deployment is as its template says, as `kubectl rollout status` does."""
        path = f"/apis/apps/v1/namespaces/{NAMESPACE}/deployments/{deployment}"

        def done() -> bool:
            found = self.fleet.plane.request("GET", path)
            status, wanted = found["status"], found["spec"]["replicas"]
            counts = [status.get(f"{name}eplicas", 0) for name in ("r", "updatedR", "availableR")]
            return status.get("observedGeneration") == found["metadata"]["generation"] and counts == [wanted] * 3

        eventually(done, within_s, f"{deployment} is rolled out")

    def told(self, pool: str) -> str:
        """How a pool stands, for the message of a test that waited in vain."""
        status = self.autoscaler_status(pool)
        return (
            f"{len(self.ready(pool))} ready of {self.fleet.replicas(pool)} asked for; "
            f"{status.get('explanation', 'no autoscaler')}; {self.fleet.explain_pods()}"
        )

    def kubectl(self, *arguments: str) -> str:
        return self.fleet.plane.kubectl("-n", NAMESPACE, *arguments)

    def twice_allocated(self) -> list[str]:
        """Pods that came to a node without a free slice for them: a slice was promised twice."""
        failures = [worker.failure for worker in self.fleet.kubelet.workers.values() if worker.failure]
        return failures + [life.name for life in self.fleet.ledger.listing() if life.admission_failed]


def nodes_of(folder: Path, store_bytes: int) -> list[LocalNode]:
    """Two nodes with seven small slices, and one with two."""
    nodes = make_nodes(folder, store_bytes, 1)
    cuts = (Slice("1g.10gb", 0), Slice("1g.10gb", 1), Slice("2g.20gb", 2), Slice("3g.40gb", 4))
    return [
        dataclasses.replace(node, gpu=dataclasses.replace(node.gpu, slices=cuts)) if node.name == SCARCE_NODE else node
        for node in nodes
    ]


@contextmanager
def stand_up(folder: Path, backends: Path) -> Iterator[Standing]:
    """The fleet from etcd to Prometheus; everything has ended when it is left."""
    scenes = gather(None, False, folder, 1, lambda _: None)
    total_bytes = sum(scenes.resident_bytes.values())
    store_bytes = round(1.3 * total_bytes)
    nodes, catalogue = nodes_of(folder, store_bytes), scenes.catalogue_file
    flags = Flags(
        exporter=("--window-s=10",),
        scene_agent=(f"--capacity-gb={store_bytes / 1e9!r}", f"--catalogue={catalogue}"),
        gateway=(f"--catalogue={catalogue}", *(f"--pool={pool}" for pool in POOLS), "--hold-s=40"),
        autoscaler=(
            *("--interval-s=1", "--bin-s=1", "--history-days=0.02", "--drain-s=1"),
            f"--lease-s={LEASE_S:g}",
        ),
    )
    provisioning = Provisioning(PROVISION_S, 0.2, Random(1))
    wanted = FleetSettings(folder, backends, nodes, provisioning, flags, note=lambda text: print(text, flush=True))
    with KubernetesFleet(wanted) as fleet:
        fleet.start_prometheus()
        made = Standing(fleet, scenes, folder, nodes)
        try:
            yield made
        finally:
            made.gateways.stop()


def seconds_until(holds: Any, within_s: float, what: str) -> float:
    """How long it took until it held."""
    begun_s = time.monotonic()
    eventually(holds, within_s, what)
    return time.monotonic() - begun_s
