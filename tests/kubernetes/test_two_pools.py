"""Two pools on scarce slices under the real kube-scheduler: who is asked for now wins, who loses loses the least."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest

from fleet import labels, metrics
from tests.kubernetes.fleet import eventually
from tests.kubernetes.standing import FRAME_S, SCARCE_NODE, Standing

pytestmark = [pytest.mark.triton, pytest.mark.prometheus, pytest.mark.timeout(240)]

INTERACTIVE, BATCH = "interactive", "batch"
PRIORITIES = {INTERACTIVE: 1000, BATCH: 10}
BATCH_PER_S = 3.0  # more than one pod bears within the objective, less than it can render
WATCHED_S = 6.0


@pytest.fixture(scope="module")
def classes(standing: Standing) -> Iterator[Standing]:
    api = "scheduling.k8s.io/v1"
    standing.fleet.plane.apply(
        *(
            {"apiVersion": api, "kind": "PriorityClass", "metadata": {"name": name}, "value": value}
            for name, value in PRIORITIES.items()
        )
    )
    yield standing
    standing.kubectl("delete", "priorityclass", *PRIORITIES)


def scarce(standing: Standing, name: str, replicas: int, **changes: Any) -> Any:
    where = {"kubernetes.io/hostname": SCARCE_NODE}
    return standing.spec(name, replicas, priority_class=name, node_selector=where, drain_s=1, **changes)


AUTOSCALER = {
    "minReplicas": 2,
    "maxReplicas": 2,
    "demand": {"serviceSeconds": FRAME_S, "serviceVariation": 0.2},
    "forecast": {"policy": "Reactive", "startupSeconds": 4},
    "behavior": {"settleSeconds": 2, "downWindowSeconds": 4},
}


def preempt_calls(standing: Standing) -> float:
    url = f"http://{standing.fleet.address('extender')}:{labels.EXTENDER_PORT}/metrics"
    text = httpx2.get(url, trust_env=False, timeout=5).text
    name = f"{metrics.EXTENDER_REQUESTS.name}{{"
    lines = [line for line in text.splitlines() if line.startswith(name) and 'verb="preempt"' in line]
    return sum(float(line.split()[-1]) for line in lines)


def test_the_interactive_pool_wins_the_coldest_goes_and_nobody_flaps(classes: Standing) -> None:
    """Both slices of a node belong to batch; the pod that is asked for now gets the one that costs least."""
    standing = classes
    small, *_, large = sorted(standing.scenes.ids, key=lambda scene: standing.scenes.resident_bytes[scene])
    with (
        standing.pool(scarce(standing, BATCH, 1, scenes=[small]), AUTOSCALER),
        standing.traffic(BATCH, BATCH_PER_S, small) as traffic,
    ):
        cold, before = standing.ready(BATCH)[0], len(standing.lives(BATCH))
        eventually(lambda: len(standing.ready(BATCH)) == 2, 60, lambda: standing.told(BATCH))
        # The younger of two is kube-scheduler's own choice; here it is the one that holds the more.
        warm = next(life for life in standing.ready(BATCH) if life.uid != cold.uid)
        load(standing.fleet.kubelet.workers[warm.uid].pod_ip, large)
        eventually(lambda: resident_bytes(standing, warm.uid) > resident_bytes(standing, cold.uid), 20, "it is warm")
        time.sleep(2.5)  # two rounds of digests: the extender asks every second
        asked = preempt_calls(standing)
        with standing.pool(scarce(standing, INTERACTIVE, 1, scenes=[small])):
            assert preempt_calls(standing) > asked
            assert cold.draining_s is not None
            assert warm.draining_s is None
            winner = standing.ready(INTERACTIVE)[0]
            watched_s = time.monotonic()
            while time.monotonic() - watched_s < WATCHED_S:  # the loser asks again, and takes nothing
                assert [life.uid for life in standing.alive(INTERACTIVE)] == [winner.uid]
                assert warm.draining_s is None
                assert standing.fleet.replicas(BATCH) == 2
                time.sleep(0.2)
            assert len(standing.lives(BATCH)) == before + 2, "a second pod came, and one pod lost its place once"
        eventually(lambda: len(standing.ready(BATCH)) == 2, 60, lambda: standing.told(BATCH))
    assert not traffic.lost(), traffic.lost()[:3]
    assert not standing.twice_allocated()


def resident_bytes(standing: Standing, uid: str) -> int:
    """Bytes in a pod's memory, as the digest of its node says."""
    node = next(life.node for life in standing.fleet.ledger.listing() if life.uid == uid)
    digest = httpx2.get(f"{standing.fleet.exporter_urls()[node]}/v1/node", trust_env=False, timeout=5).json()
    return sum(
        scene["bytes"] for pod in digest.get("pods", ()) if pod["uid"] == uid for scene in pod.get("resident", ())
    )


def load(address: str, scene: str) -> None:
    """Have a pod hold one scene more."""
    body = {
        "parameters": {"scene": scene, "action": "warm"},
        "inputs": [
            {"name": name, "datatype": "FP32", "shape": [4, 4], "data": [0.0] * 16}
            for name in ("VIEW_MATRIX", "PROJECTION_MATRIX")
        ],
    }
    url = f"http://{address}:{labels.TRITON_HTTP_PORT}/v2/models/gaussian_renderer/infer"
    httpx2.post(url, json=body, trust_env=False, timeout=10).raise_for_status()
