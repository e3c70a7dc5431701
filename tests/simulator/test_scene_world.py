"""Scene loads in the scaling simulator: against the gateway's own router, against arithmetic, and off by default."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from autoscaler.decision import WarmAsk
from autoscaler.loop import Decision, Memory, Pool, Reason, tick
from autoscaler.warmup import WarmMemory, plan_warm_asks
from fleet.scene import SceneId
from fleet.traffic import DAY_S, RateTrace, day_shape
from simulator.contenders import choose
from simulator.queue import STARTED, WAIT
from simulator.scaling import Setting, run
from simulator.scene_queue import SceneQueue
from simulator.scene_requests import SceneSetting
from simulator.scene_world import SceneWorld, with_scenes
from simulator.traffic import Service, play
from simulator.world import StartUp
from tests.simulator.scene_oracle import Oracle

EVEN = StartUp(60.0, 0.0)

END_S = 400.0


def uid(pod: int) -> str:
    return f"pod-{pod:06d}"


@pytest.mark.parametrize("seed", range(12))
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


def lived_world(
    rates_per_s: list[float], setting: SceneSetting, pods: int, start_up: StartUp = EVEN, seed: int = 2
) -> SceneWorld:
    """A world of ten minutes a rate, with so many ready pods."""
    trace = RateTrace(600.0, np.array(rates_per_s) * 600.0)
    traffic = play(trace, Service(0.25, 0.3), (0.0, trace.duration_s / DAY_S), seed)
    scenes = setting.draw(traffic.arrivals, seed)
    pool = with_scenes(Pool("pool", max_replicas=60, service_s=0.25), scenes)
    world = SceneWorld(pool, traffic, start_up, seed, scenes)
    world.begin(pods)
    return world


def test_the_plan_leaves_fewer_requests_cold_than_none() -> None:
    """Two empty pods wait for the traffic of six scenes; the autoscaler's own plan has ten minutes, or asks nothing."""

    def cold(asks_per_tick: int) -> int:
        world = lived_world([0.001, 5.0], SceneSetting(6, per_pod=6, nodes=2, per_node=6), pods=1)
        world._remove(1)
        world.resize(2)
        pool, memory = replace(world.pool, warm_asks_per_tick=asks_per_tick), WarmMemory()
        demand = {SceneId(f"scene-{number:05d}"): 1.0 for number in range(6)}
        for second in range(75, 600, 15):
            world.advance(float(second))
            world.warm(pool, plan_warm_asks(pool, world.observe(pool, world.now_s), demand, 60.0, memory))
        world.advance(1200.0)
        return world.queue.scene_cold_requests

    assert cold(2) == 0
    assert cold(0) > 0


def test_the_whole_plan_leaves_fewer_requests_without_their_scene_than_none() -> None:
    """The very tick when traffic sets in, new pods told and asks made, or neither: late ones that met no such pod.

    Over many draws: one day's count is mostly that of which scenes it asks for first.
    """

    def cold(seed: int, plan: bool) -> int:
        world = lived_world([4.0, 24.0], SceneSetting(24), 3, StartUp(60.0, 0.2), seed)
        if not plan:
            world.pool = replace(world.pool, scenes_per_new_pod=0, warm_asks_per_tick=0)
        memory, told = Memory(), 0
        for second in range(0, 1200, 15):
            told += sum(len(scenes) for decision in tick(world, memory, float(second)) for scenes in decision.scenes)
            world.advance(second + 15.0)
        world.finish()
        assert (told > 0) is plan
        return world.queue.scene_cold_requests

    with_plan, without = (sum(cold(seed, plan) for seed in range(16)) for plan in (True, False))
    assert with_plan < 0.8 * without


def test_a_start_that_ends_as_a_tick_begins_is_learned_from() -> None:
    world = lived_world([0.01], SceneSetting(4, per_pod=2), pods=1)
    world.pool = replace(world.pool, scenes_per_new_pod=0)
    world.resize(2)
    for second in range(15, 120, 15):
        world.advance(float(second))
    assert world.observe(world.pool, world.now_s).startup_s == (60.0,)


def test_what_a_pod_is_told_to_load_comes_on_top_of_its_start() -> None:
    """60 s, then 20 + 2 s for what is not on the node and 2 s for what is; the start-up is measured as such."""
    world = lived_world([0.01], SceneSetting(4, exponent=9.0, per_pod=2, nodes=1, per_node=4), pods=1)
    told = (SceneId("scene-00003"), SceneId("scene-00000"))
    world.scale(world.pool, Decision("pool", 2, Reason.FORECAST, "", scenes=(told,)))
    for second in range(15, 120, 15):
        seen = world.observe(world.pool, world.now_s)
        assert [pod.resident for pod in seen.pods if not pod.ready] in ([told], [])
        world.advance(float(second))
    assert world.queue.ready_s(2) == pytest.approx(60.0 + 20.0 + 2.0 + 2.0)
    assert world.observe(world.pool, world.now_s).startup_s == pytest.approx((84.0,))


def test_a_pod_waits_for_its_scenes_once() -> None:
    """The start-up's own stages for scenes go where scenes are played; else all of it stays."""
    trace = RateTrace(60.0, np.full(60, 60.0))
    whole, played = (
        Setting(trace, test_from_day=0.0, scenes=scenes).case(seed=1).start_up for scenes in (None, SceneSetting(4))
    )
    assert played.median_s == pytest.approx(0.5 * whole.median_s)
    assert [name for name, _ in played.stages] == ["provisioning", "image"]
    assert sum(share for _, share in played.stages) == pytest.approx(1.0)


def test_asks_of_the_autoscaler_are_carried_out() -> None:
    """A node fetches, a ready pod preloads from its disk, and what is gone is asked nothing."""
    world = lived_world([0.01], SceneSetting(4, exponent=9.0, per_pod=3, nodes=2, per_node=4), pods=1)
    world._remove(1)
    world.resize(1)
    world.advance(70.0)
    scene = SceneId("scene-00003")
    world.warm(world.pool, [WarmAsk(scene, "disk", 0.0, node="node-0"), WarmAsk(scene, "memory", 0.0, pod_uid="gone")])
    world.advance(95.0)
    assert scene in world.observe(world.pool, 95.0).nodes[0].on_disk
    world.warm(world.pool, [WarmAsk(scene, "memory", 0.0, pod_uid="pod-000002")])
    world.advance(98.0)
    assert world.observe(world.pool, 98.0).pods[0].resident == (scene,)
    assert (world.queue.scene_loads, world.queue.scene_fetches) == (1, 1)


def test_the_loops_own_plan_is_played() -> None:
    """The very tick tells new pods scenes and asks ready ones for more."""
    world = lived_world([4.0, 24.0, 36.0], SceneSetting(24), pods=3)
    memory, told = Memory(), 0
    for second in range(0, 1800, 15):
        (decision,) = tick(world, memory, float(second))
        assert len(world.pods) == decision.replicas
        told += sum(map(len, decision.scenes))
        world.advance(second + 15.0)
    assert told > 8
    assert sum(state.ready for state in world.observe(world.pool, world.now_s).pods) >= 8
    assert world.queue.scene_loads > 8
    world.finish()
    assert world.queue.by_day[:, 0].sum() == world.traffic.arrivals.size


def test_without_scenes_nothing_has_changed() -> None:
    """Counted before there were scenes."""
    assert "splatfleet-no-warm-up" not in dict(choose("all"))
    case = Setting(
        day_shape(2, seed=4), "made", mean_pods=1.0, test_from_day=1.0, train_days=0.5, bin_s=30.0, tick_s=30.0
    ).case(seed=1)  # fmt: skip
    rows = [run(case, policy, 0.7) for policy in ("keda", "splatfleet-reactive")]
    assert [(row.violations_by_day, row.cold_requests, row.actions_per_day) for row in rows] == [
        ((4296,), 447, 11.0), ((3193,), 634, 33.0)
    ]  # fmt: skip
    assert {(row.requests, row.scene_cold_requests, row.scene_loads) for row in rows} == {(352538, 0, 0)}
