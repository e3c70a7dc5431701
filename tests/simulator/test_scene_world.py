"""Scene loads in the scaling simulator: against the gateway's own router, against arithmetic, and off by default."""

from __future__ import annotations

import numpy as np
import pytest

from simulator.queue import STARTED, WAIT
from simulator.scene_queue import SceneQueue
from simulator.scene_requests import Scenes, SceneSetting
from tests.simulator.scene_oracle import Oracle

END_S = 400.0


def uid(pod: int) -> str:
    return f"pod-{pod:06d}"


@pytest.mark.parametrize("seed", range(24))
def test_the_compiled_line_is_the_gateways_own(seed: int) -> None:
    """Pods come, go and preload, nodes prefetch, memory and disks are too small: both tell the same of each request."""
    random = np.random.default_rng(seed)
    setting = SceneSetting(
        scenes=int(random.integers(2, 14)),
        exponent=float(random.uniform(0.2, 1.5)),
        per_pod=int(random.integers(1, 6)),
        nodes=int(random.integers(1, 4)),
        per_node=int(random.integers(2, 14)),
        load_s=float(random.uniform(0.3, 3.0)),
        fetch_s=float(random.uniform(1.0, 15.0)),
    )
    arrivals = np.sort(random.uniform(0.0, END_S, int(random.uniform(0.3, 1.3) * 4 * END_S * 3)))
    services = random.lognormal(-1.4, 0.4, 997)
    asked = setting.draw(arrivals, seed)
    arrived = np.searchsorted(arrivals, np.arange(int(END_S) + 1)).astype(np.float64)
    queue = SceneQueue(arrivals, arrived, services, END_S, asked, 0.5, slots=40)
    named = [(float(at_s), str(asked.names[scene])) for at_s, scene in zip(arrivals, asked.asked, strict=True)]
    oracle = Oracle(setting, named, services.tolist())

    def add(now_s: float, pod: int, boots_after_s: float) -> None:
        node = int(random.integers(setting.nodes))
        told = random.permutation(setting.scenes)[: int(random.integers(0, setting.per_pod + 1))].tolist()
        queue.add(pod, now_s + boots_after_s, node, told, uid(pod))
        oracle.add(uid(pod), node, now_s + boots_after_s, [str(asked.names[scene]) for scene in told])

    pods = [1, 2, 3]
    for pod in pods:
        add(0.0, pod, 0.5)
    for step, now_s in enumerate(np.arange(7.25, END_S, 9.75)):
        queue.advance(float(now_s), 0.0)
        oracle.play(float(now_s))
        if step % 3 == 0:
            pods.append(pods[-1] + 1)
            add(float(now_s), pods[-1], float(random.uniform(1.0, 20.0)))
        if step % 4 == 3 and len(pods) > 2:
            gone = pods.pop(int(random.integers(len(pods))))
            queue.remove(gone)
            oracle.remove(uid(gone))
        scene = int(random.integers(setting.scenes))
        node, pod = int(random.integers(setting.nodes)), pods[int(random.integers(len(pods)))]
        queue.fetch(node, scene)
        oracle.fetch(node, str(asked.names[scene]), False, float(now_s))
        if queue.ready_s(pod) is not None:
            queue.preload(pod, scene)
            oracle.preload(uid(pod), str(asked.names[scene]), float(now_s))
        assert {uid(pod): queue.ready_s(pod) is not None for pod in pods} == {
            name: state.is_ready for name, state in oracle.pods.items()
        }
        assert queue.queued == oracle.router.waiting + sum(
            len(state.running(float(now_s))) == 2 for state in oracle.pods.values()
        )
        for pod in pods:
            if queue.ready_s(pod) is not None:
                names = {str(asked.names[scene]) for scene in queue.resident(pod)}
                assert names == oracle.pods[uid(pod)].resident
    queue.advance(END_S, 0.0)
    oracle.play(END_S)
    waits = {number: begin_s - arrivals[number] for number, (begin_s, _) in oracle.starts.items()}
    assert (queue.scene_loads, queue.scene_fetches) == (oracle.loads, oracle.fetched)
    assert queue.total(STARTED) == sum(begin_s < END_S for begin_s, _ in oracle.starts.values())
    assert queue.total(WAIT) == pytest.approx(sum(w for n, w in waits.items() if oracle.starts[n][0] < END_S))
    queue.finish()
    waits |= {number: END_S - arrivals[number] for number in oracle.met if number not in waits}
    late = [number for number, wait in waits.items() if wait > 0.5]
    assert queue.by_day.sum(axis=0).tolist() == [len(arrivals), len(late)], "each is counted once"
    assert queue.scene_cold_requests == sum(oracle.met[number][0] for number in late)
    assert queue.cold_requests == sum(any(oracle.met[number]) for number in late)
    for number, (begin_s, name) in oracle.starts.items():
        spans = oracle.held[name, named[number][1]]
        assert any(since_s <= begin_s for since_s, _ in spans), "none is rendered before its scene is there"
