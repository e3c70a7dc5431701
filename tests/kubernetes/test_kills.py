"""Each part of the loop is killed, one at a time, under traffic; what must hold holds, and the loop comes back.

One pool, one stream and one train of requests live through all of it, in the order of this file: demand rises or falls
at each kill, and the loop has come back when the count has followed.
"""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx2
import pytest

from fleet import labels, metrics
from local_fleet.kubelet.pod_worker import PodWorker
from local_fleet.kubernetes.manifests import NAMESPACE
from tests.kubernetes.fleet import eventually
from tests.kubernetes.session import Session
from tests.kubernetes.standing import FRAME_S, LEASE_S, Standing
from tests.kubernetes.traffic import Traffic

pytestmark = [pytest.mark.triton, pytest.mark.prometheus, pytest.mark.timeout(600)]

POOL = "steady"
LOW_PER_S, HIGH_PER_S = 6.0, 14.0
DOWN_S = 4  # a pod must have been superfluous for so long before it goes
BLIND_S = 8.0
OUTAGE_S = float(os.environ.get("SPLATFLEET_OUTAGE_S", "10"))  # make test-kubernetes-long: 30
HANG_S = max(0.4 * OUTAGE_S, LEASE_S + 1.0)  # more than a lease may be written on
MOST_LOST = 0  # the gateway asks another pod
WITHIN_S = 150.0  # of a state that comes: six pods that booted at once took 52 s of two cores that others used too


class Rig:
    """The pool under traffic, what is seen of it all the time, and hands to kill with."""

    def __init__(self, standing: Standing, traffic: Traffic, session: Session) -> None:
        self.standing = standing
        self.fleet = standing.fleet
        self.traffic = traffic
        self.session = session
        self.counts: list[tuple[float, int]] = []  # monotonic moment, replicas asked for
        self.reasons: list[str] = []  # what the autoscaler said of its last counts
        self.holders: list[str] = []  # of the Lease, one after the other
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._stopping.set()
        self._thread.join(15)

    def _watch(self) -> None:
        while not self._stopping.wait(0.2):
            try:
                self.counts.append((time.monotonic(), self.fleet.replicas(POOL)))
                holder = str(self.lease()["holderIdentity"])
                said = str(self.standing.autoscaler_status(POOL).get("explanation"))
            except OSError:  # the API server is one of those that are killed
                continue
            if not self.holders or self.holders[-1] != holder:
                self.holders.append(holder)
            if not self.reasons or self.reasons[-1] != said:
                self.reasons.append(said)

    def lease(self) -> dict[str, Any]:
        path = f"/apis/coordination.k8s.io/v1/namespaces/{NAMESPACE}/leases/splatfleet-autoscaler"
        found: dict[str, Any] = self.fleet.plane.request("GET", path)["spec"]
        return found

    def worker(self, component: str) -> PodWorker:
        found: PodWorker = eventually(
            lambda: next((worker for worker in self.workers(component) if worker.ready), None),
            WITHIN_S,
            f"{component} ready",
        )
        return found

    def workers(self, component: str) -> list[PodWorker]:
        live = self.fleet.kubelet.live()
        return [worker for worker in live if worker.pod.metadata.label(labels.COMPONENT_LABEL) == component]

    def count(self) -> int:
        """What the Deployment is asked for, as last seen."""
        return self.counts[-1][1]

    def lowest_since(self, moment_s: float) -> int:
        return min((count for at_s, count in list(self.counts) if at_s >= moment_s), default=self.count())

    def ready(self) -> int:
        return len(self.standing.ready(POOL))

    def follows(self, holds: Callable[[int], bool]) -> bool:
        """Whether the count is as wanted and that many pods are ready, no more and no less."""
        return holds(self.count()) and self.ready() == self.count() == len(self.standing.alive(POOL, ended=True))

    def level(self, rate_per_s: float, stays_s: float = 2.0) -> int:
        """Bring demand to a level; wait until every part is there and the count has stayed for a while; the count.

        Only after more than the pool's down window is it known that it would not have gone down by itself.
        """
        self.traffic.rate_per_s = rate_per_s
        begun_s = time.monotonic()
        busy = rate_per_s * FRAME_S

        def settled() -> bool:
            seen = {count for at_s, count in list(self.counts) if at_s > time.monotonic() - stays_s}
            if time.monotonic() - begun_s < 1.0 + stays_s or len(seen) != 1:
                return False
            whole = all(worker.ready for worker in self.fleet.kubelet.live())
            return whole and self.follows(lambda count: busy < count <= 2.0 * busy + 2.0)

        def told() -> str:
            counts = [count for _, count in self.counts[-5:]]
            waited_for = [worker.pod.metadata.name for worker in self.fleet.kubelet.live() if not worker.ready]
            return f"the pool settles at {rate_per_s:g}/s: {counts}, {self.ready()} ready, not ready {waited_for}"

        eventually(settled, WITHIN_S, told)
        return self.count()

    def sample(self, component: str, port: int, name: str) -> float:
        """Sum of a metric's samples at a component's ready pod."""
        text = httpx2.get(f"http://{self.fleet.address(component)}:{port}/metrics", trust_env=False, timeout=5).text
        return sum(float(line.split()[-1]) for line in text.splitlines() if line.startswith((f"{name} ", f"{name}{{")))


@pytest.fixture(scope="module")
def rig(standing: Standing) -> Iterator[Rig]:
    spec = standing.spec(POOL, 2, gated=True)
    wanted = {
        "minReplicas": 1,
        "maxReplicas": 8,
        "demand": {"serviceSeconds": FRAME_S, "serviceVariation": 0.2},
        "forecast": {"policy": "Reactive", "startupSeconds": 4},
        "behavior": {"settleSeconds": 2, "downWindowSeconds": DOWN_S, "staleAfterSeconds": 5, "blindAfterSeconds": 60},
    }
    standing.kubectl("scale", "deployment/autoscaler", "--replicas=2")
    with standing.pool(spec, wanted):
        bodies = standing.bodies(POOL, standing.scenes.ids[0])
        cameras = [{key: value for key, value in json.loads(body).items() if key in CAMERA} for body in bodies]
        traffic = Traffic(standing.gateways, bodies, LOW_PER_S)
        session = Session(standing.fleet.gateway_url, standing.scenes.ids[0], POOL, cameras)
        made = Rig(standing, traffic, session)
        try:
            eventually(lambda: len(standing.fleet.ready_pods("autoscaler")) == 2, WITHIN_S, "a leader and a standby")
            yield made
        finally:
            made.stop()
            session.close()
            traffic.stop()
            standing.kubectl("scale", "deployment/autoscaler", "--replicas=1")


CAMERA = ("view_matrix", "projection_matrix", "size")


def killed(rig: Rig, what: str, begun_s: float, took_s: float) -> None:
    """What holds after each: no request and no session was lost, no slice given twice."""
    lost = rig.traffic.lost(begun_s - 1.0)
    gap_s = rig.session.longest_gap_s(begun_s)
    print(f"\n{what}: back in {took_s:.1f} s, {len(lost)} of {len(rig.traffic.since(begun_s))} requests lost, "
          f"longest pause of the stream {gap_s:.1f} s")  # fmt: skip
    assert len(lost) <= MOST_LOST, lost[:3]
    assert not rig.session.ended
    assert not rig.standing.twice_allocated()


def back(rig: Rig, holds: Callable[[], Any], within_s: float, what: str) -> float:
    begun_s = time.monotonic()

    def told() -> str:
        counts = [count for _, count in rig.counts[-5:]]
        return f"{what}: counts {counts}, {rig.ready()} ready, {rig.fleet.explain_pods()}"

    end_s = begun_s + within_s
    while not holds():
        assert time.monotonic() < end_s, told()
        time.sleep(0.05)
    return time.monotonic() - begun_s


def test_the_extender_is_killed_while_pods_are_asked_for(rig: Rig) -> None:
    before = rig.level(LOW_PER_S)
    extender = rig.worker("extender")
    begun_s = time.monotonic()
    os.killpg(extender.processes()[0].pid, signal.SIGKILL)
    rig.traffic.rate_per_s = HIGH_PER_S
    took_s = back(rig, lambda: rig.follows(lambda n: n > before), WITHIN_S, "pods are placed without the extender")
    back(rig, lambda: extender.ready and extender.restarts, WITHIN_S, "the extender answers again")
    killed(rig, "extender killed", begun_s, took_s)


def test_prometheus_is_killed_and_nothing_shrinks_by_its_absence(rig: Rig) -> None:
    before = rig.level(HIGH_PER_S, DOWN_S + 2.0)
    assert rig.fleet.prometheus is not None
    begun_s = time.monotonic()
    os.kill(rig.fleet.prometheus.pid, signal.SIGKILL)
    rig.traffic.rate_per_s = LOW_PER_S
    while time.monotonic() - begun_s < BLIND_S:
        assert rig.lowest_since(begun_s) >= before
        time.sleep(0.2)
    conditions = rig.standing.autoscaler_status(POOL)["conditions"]
    assert {"type": "MetricsAvailable", "status": "False"}.items() <= next(
        found for found in conditions if found["type"] == "MetricsAvailable"
    ).items()
    restarted_s = time.monotonic()
    rig.fleet.restart_prometheus()
    back(rig, lambda: rig.follows(lambda n: n < before), WITHIN_S, "it shrinks once demand is known again")
    killed(rig, f"Prometheus killed, {BLIND_S:g} s without", begun_s, time.monotonic() - restarted_s)


def test_an_exporter_is_killed(rig: Rig) -> None:
    before = rig.level(LOW_PER_S, 3.0 * DOWN_S)  # frames that take longer for a while can be worth a pod
    node = rig.worker(labels.NODE_COMPONENT)
    begun_s = time.monotonic()
    os.killpg(node.processes()[0].pid, signal.SIGKILL)
    took_s = back(rig, lambda: node.ready and node.restarts, WITHIN_S, "the exporter answers again")
    assert rig.lowest_since(begun_s) >= before, rig.reasons[-12:]
    killed(rig, "exporter killed", begun_s, took_s)


def test_the_leading_autoscaler_is_killed_and_never_two_lead(rig: Rig) -> None:
    before, lease = rig.level(LOW_PER_S), rig.lease()
    leader = next(
        worker for worker in rig.workers("autoscaler")
        if lease["holderIdentity"].startswith(worker.pod.metadata.name) or leads(worker)
    )  # fmt: skip
    begun_s, held = time.monotonic(), len(rig.holders)
    os.killpg(leader.processes()[0].pid, signal.SIGKILL)
    rig.traffic.rate_per_s = HIGH_PER_S
    took_s = back(rig, lambda: rig.follows(lambda n: n > before), WITHIN_S, "another one leads and scales")
    assert rig.lease()["leaseTransitions"] == lease["leaseTransitions"] + 1
    assert len(rig.holders) == held + 1
    killed(rig, "leading autoscaler killed", begun_s, took_s)


def leads(worker: PodWorker) -> bool:
    url = f"http://{worker.pod_ip}:{labels.AUTOSCALER_PORT}/metrics"
    return f"{metrics.AUTOSCALER_LEADER.name} 1.0" in httpx2.get(url, trust_env=False, timeout=5).text


def test_the_api_server_hangs_and_dies(rig: Rig) -> None:
    """First it accepts and never answers, then it is gone: nobody may write, and frames need none of it."""
    before = rig.level(HIGH_PER_S)
    autoscalers = rig.workers("autoscaler")
    begun_s, leases, process = time.monotonic(), rig.lease()["leaseTransitions"], rig.fleet.plane.pid("kube-apiserver")
    os.kill(process, signal.SIGSTOP)
    rig.traffic.rate_per_s = LOW_PER_S
    time.sleep(HANG_S)
    assert not any(leads(worker) for worker in autoscalers), "a lease that cannot be renewed ends by its own clock"
    os.kill(process, signal.SIGKILL)
    time.sleep(OUTAGE_S - HANG_S)
    rig.fleet.plane.restart_program("kube-apiserver")
    rig.fleet.plane.wait_ready()
    restarted_s = time.monotonic()
    back(rig, lambda: rig.follows(lambda n: n < before), WITHIN_S, "it follows demand again")
    assert rig.lease()["leaseTransitions"] <= leases + 1
    for worker in autoscalers:
        log = (rig.fleet.folder / "kubelet/pods" / worker.pod.metadata.uid / "autoscaler.log").read_text()
        assert "Traceback" not in log
        assert log.count("lease not renewed") < 4 * OUTAGE_S, "looked for again, not in a spin"
    what = f"API server hung for {HANG_S:g} s, then gone for {OUTAGE_S - HANG_S:g} s"
    killed(rig, what, begun_s, time.monotonic() - restarted_s)


def test_a_renderer_is_killed(rig: Rig) -> None:
    rig.level(LOW_PER_S)
    uid = rig.standing.ready(POOL)[0].uid
    worker = rig.fleet.kubelet.workers[uid]
    begun_s = time.monotonic()
    os.killpg(worker.processes()[0].pid, signal.SIGKILL)

    def served() -> bool:
        """Again by the same pod; or without it, where the pool shrank meanwhile and let it go."""
        gone = uid not in {life.uid for life in rig.standing.alive(POOL, ended=True)}
        return bool(worker.ready and worker.restarts) or (gone and rig.follows(lambda _: True))

    took_s = back(rig, served, WITHIN_S, "the renderer serves again")
    killed(rig, "renderer killed", begun_s, took_s)


def test_a_slice_breaks_and_is_mended(rig: Rig) -> None:
    """Its pod is counted out and replaced; condition and Events of the real API server say so, once each."""
    before = rig.level(LOW_PER_S)
    life = rig.standing.ready(POOL)[0]
    node = rig.fleet.kubelet.nodes[life.node]
    begun_s = time.monotonic()
    node.set_health(life.uid, healthy=False)
    try:
        took_s = back(
            rig, lambda: rig.count() > before and told(rig) == {"SlicesUnhealthy": 1}, WITHIN_S, "one more is asked"
        )
        condition = slices(rig)
        assert (condition["status"], condition["reason"]) == ("False", "PodsCountedOut")
        assert condition["message"].endswith(f"unhealthy: 1 on {life.node}")
    finally:
        node.set_health(life.uid, healthy=True)
    both = {"SlicesUnhealthy": 1, "SlicesHealthy": 1}
    back(rig, lambda: told(rig) == both and slices(rig)["status"] == "True", WITHIN_S, "the slice is sound again")
    killed(rig, "slice broken and mended", begun_s, took_s)


def slices(rig: Rig) -> dict[str, Any]:
    """The condition of the pool's resource."""
    found: list[dict[str, Any]] = rig.standing.autoscaler_status(POOL)["conditions"]
    return next(condition for condition in found if condition["type"] == "SlicesHealthy")


def told(rig: Rig) -> dict[str, int]:
    """How often each Event about slices was told of the pool's resource, as the API server has them."""
    path = f"/api/v1/namespaces/{NAMESPACE}/events?fieldSelector=involvedObject.kind=PredictiveAutoscaler"
    counts: dict[str, int] = {}
    for event in rig.fleet.plane.request("GET", path)["items"]:
        if event["involvedObject"]["name"] == POOL and event["reason"].startswith("Slices"):
            counts[event["reason"]] = counts.get(event["reason"], 0) + (event.get("count") or 1)
    return counts


def test_a_node_falls_silent(rig: Rig) -> None:
    """Its pods are replaced elsewhere, and no reservation stays behind; then it is back, and empty."""
    before = rig.level(HIGH_PER_S)
    monitor = "--node-monitor-grace-period={}"
    rig.fleet.plane.restart_program("kube-controller-manager", monitor.format("8s"), "--node-monitor-period=1s")
    homes = [life.node for life in rig.standing.ready(POOL)]
    gone = max(set(homes), key=homes.count)
    begun_s = time.monotonic()
    rig.fleet.kubelet.lose_node(gone)

    def elsewhere() -> bool:
        return sum(life.node != gone for life in rig.standing.ready(POOL)) >= before

    try:
        took_s = back(rig, elsewhere, WITHIN_S, f"its pods run elsewhere than {gone}")
        killed(rig, f"node with {homes.count(gone)} of {len(homes)} pods lost", begun_s, took_s)
        port = labels.EXTENDER_PORT
        reserved = metrics.EXTENDER_RESERVATIONS.name
        eventually(lambda: rig.sample("extender", port, reserved) == 0.0, WITHIN_S, "reservations end")
        assert rig.sample("extender", port, metrics.EXTENDER_RESERVATION_LEAKS.name) == 0.0
    finally:
        rig.fleet.plane.restart_program("kube-controller-manager", monitor.format("24h"))
        on_it = ("pods", "--field-selector", f"spec.nodeName={gone}")
        rig.standing.kubectl("delete", *on_it, "--force", "--grace-period=0")  # nobody there can say that they ended
        rig.fleet.kubelet.return_node(gone)
        eventually(lambda: gone in rig.fleet.exporter_urls(), WITHIN_S, "the node serves again")
