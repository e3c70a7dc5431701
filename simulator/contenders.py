"""Who plays: every policy with its main knob and the values that are swept."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np

from autoscaler.loop import ForecastSettings, Memory, Mode, Objective, Pool, Triggers, tick
from autoscaler.memory import PoolMemory
from fleet.traffic import DAY_S
from simulator.oracles import Clairvoyant, Counts, PerfectForecast, Plan, Static, clairvoyant_plan, needs
from simulator.rivals.aibrix import Apa
from simulator.rivals.dynamo import DynamoBoth, DynamoLoad, DynamoSla, DynamoThroughput
from simulator.rivals.hpa import HpaDuty, HpaRate, HpaRatio
from simulator.rivals.keda import Keda
from simulator.rivals.kpa import Kpa
from simulator.rivals.predictive import AwsPredictive, Bacc, Crane, Hybrid, Phpa
from simulator.rivals.predictors import Arima, Constant, Kalman, Predictor, ProphetLike
from simulator.rivals.ray_serve import RayServe
from simulator.rivals.wva import Wva
from simulator.scene_requests import Scenes
from simulator.scene_world import SceneWorld, with_scenes
from simulator.shared_forecasts import ForecastBook
from simulator.traffic import SERVICE_TABLE, Traffic
from simulator.world import Seen, StartUp, World


@dataclass(frozen=True, slots=True, eq=False)
class Case:
    """One traffic, the start-up and objective that all contenders meet, and what the demand costs at least."""

    traffic: Traffic
    start_up: StartUp
    objective: Objective
    seed: int
    tick_s: float = 15.0
    scenes: Scenes | None = None  # what the requests ask for; None: they ask for pods alone
    need: Counts = field(init=False)
    plan: Plan = field(init=False)
    forecasts: ForecastBook = field(init=False)  # of ours, shared by all knobs

    def __post_init__(self) -> None:
        need = needs(self.traffic.rates, self.traffic.service, self.objective)
        object.__setattr__(self, "need", need)
        object.__setattr__(self, "plan", clairvoyant_plan(need, self.traffic.rates.bin_s, self.start_up.median_s))
        history, day = self.traffic.history_bins, round(DAY_S / self.traffic.bin_s)
        levels = [level for f in FAMILIES.values() if f.knob == "forecast quantile" for level in f.values]
        object.__setattr__(self, "forecasts", ForecastBook(levels, history, max(0, history - 3 * day)))

    def again(self, seed: int) -> Case:
        """The same arrivals, and so the same forecasts, with other render times and start-ups."""
        services = self.traffic.service.draw(SERVICE_TABLE, seed)
        other = replace(self, traffic=replace(self.traffic, services=services), seed=seed)
        object.__setattr__(other, "forecasts", self.forecasts)
        return other

    @property
    def bound_pod_seconds(self) -> float:
        """The clairvoyant's cost (O1)."""
        return self.plan.pod_seconds(self.start_up.median_s)

    @property
    def pool(self) -> Pool:
        """The pool that all are given: at most 4 x the peak."""
        service = self.traffic.service
        pool = Pool(
            "simulated",
            max_replicas=4 * max(1, int(self.need.max())),
            objective=self.objective,
            tick_s=self.tick_s,
            service_s=service.mean_s,
            service_cv=service.cv,
            startup_s=self.start_up.median_s,
        )
        return pool if self.scenes is None else with_scenes(pool, self.scenes)

    def world(self, pool: Pool | None = None) -> World:
        """A fresh world with as many ready pods as the first bin needs."""
        played = (pool or self.pool, self.traffic, self.start_up, self.seed)
        world = World(*played) if self.scenes is None else SceneWorld(*played, self.scenes)
        world.begin(max(1, int(self.need[0])))
        return world


class Player(Protocol):
    """Acts on a world every `sync_s`."""

    sync_s: float

    def act(self, world: World) -> None: ...


class Rival(Protocol):
    """Says how many pods it wants from what it sees."""

    sync_s: float

    def replicas(self, seen: Seen) -> int: ...


class RivalPlayer:
    """A rival at the controls of a world."""

    def __init__(self, rival: Rival) -> None:
        self._rival = rival
        self.sync_s = rival.sync_s

    def act(self, world: World) -> None:
        world.resize(self._rival.replicas(Seen(world)))


class OurPlayer:
    """The very tick that runs on a cluster."""

    def __init__(self, pool: Pool, forecasts: ForecastBook) -> None:
        self._memory = Memory({pool.name: PoolMemory(new_forecaster=forecasts.reader)})
        self.sync_s = pool.tick_s

    def act(self, world: World) -> None:
        tick(world, self._memory, world.now_s)


@dataclass(frozen=True, slots=True)
class Family:
    """One policy: what kind it is, what its knob means, and the values that are tried."""

    kind: str  # ours | ablation | reactive | predictive | static | oracle
    knob: str
    values: tuple[float, ...]
    rival: Callable[[Case, float], Rival] | None = None
    pool: Callable[[Pool, float], Pool] | None = None  # ours and its ablations
    of_scenes: bool = False  # differs from ours in nothing else, so that "all" leaves it out


SPENDING_LEVEL = 0.5  # forecast quantile at which ours spends
SHARES = (0.35, 0.5, 0.7, 0.85)


def _throughput(make: Callable[[], Predictor]) -> Family:
    return Family(
        "predictive",
        "share of capacity",
        (0.5, 0.7),
        lambda _, share: DynamoThroughput(make(), share),
    )


def _share(make: Callable[[float], Rival], kind: str = "reactive", values: tuple[float, ...] = SHARES) -> Family:
    return Family(kind, "share of capacity", values, lambda _, share: make(share))


def _ours(pool: Pool, level: float, triggers: Triggers | None = None, **behavior: float) -> Pool:
    """Ours at a quantile, with parts switched off to see what each is worth."""
    return replace(
        pool,
        forecast=ForecastSettings(quantile=level),
        triggers=triggers or pool.triggers,
        behavior=replace(pool.behavior, **behavior),  # type: ignore[arg-type]
    )


def _spending(pool: Pool, share: float) -> Pool:
    """Ours at another share of the objective's late requests; the level is one that the forecasts have."""
    return _ours(pool, SPENDING_LEVEL, spend=share)


def _roomy(level: float) -> Callable[[Pool, float], Pool]:
    """Ours at a level that the forecasts have, with a share of the demand kept free on top of it."""
    return lambda pool, share: _ours(pool, level, headroom=share)


def _ablation(change: Callable[[Pool, float], Pool]) -> Family:
    return Family("ablation", "forecast quantile", (0.95,), pool=change)


def _lead_s(case: Case) -> float:
    return case.start_up.median_s * math.exp(1.2816 * case.start_up.sigma) + case.tick_s


FAMILIES: dict[str, Family] = {
    "splatfleet": Family("ours", "forecast quantile", (0.5, 0.8, 0.9, 0.95, 0.98, 0.99), pool=_ours),
    "splatfleet-spend": Family("ours", "share of the objective to spend", (0.35, 0.6), pool=_spending),
    "splatfleet-headroom": Family("ours", "share kept free", (0.15, 0.3, 0.5), pool=_roomy(0.9)),
    "splatfleet-median-headroom": Family("ours", "share kept free", (0.2, 0.3, 0.5), pool=_roomy(SPENDING_LEVEL)),
    "splatfleet-settle": Family(
        "ours",
        "s until a surplus goes",
        (3600.0, 7200.0),
        pool=lambda pool, settle_s: _ours(pool, 0.95, settle_s=settle_s),
    ),
    "splatfleet-reactive": Family(
        "ablation",
        "share of capacity",
        (0.7,),
        pool=lambda pool, share: replace(pool, mode=Mode.REACTIVE, triggers=Triggers(utilization=share)),
    ),
    "splatfleet-no-pending": _ablation(lambda pool, level: _ours(pool, level, Triggers(pending_per_pod=1e6))),
    "splatfleet-no-flap-budget": _ablation(lambda pool, level: _ours(pool, level, max_reversals=100_000)),
    "splatfleet-no-pacing": _ablation(lambda pool, level: _ours(pool, level, max_margin=1.0)),
    "splatfleet-no-leeway": _ablation(lambda pool, level: _ours(pool, level, spend=0.0)),
    "splatfleet-no-warm-up": replace(
        _ablation(lambda pool, level: replace(_ours(pool, level), scenes_per_new_pod=0, warm_asks_per_tick=0)),
        of_scenes=True,
    ),
    "static": Family(
        "static",
        "quantile of the need",
        (0.95, 1.0),
        lambda case, level: Static(int(np.quantile(case.need, level, method="higher"))),
    ),
    "hpa-ratio": Family("reactive", "target ratio", (0.1, 1.0), lambda _, target: HpaRatio(target)),
    "hpa-rate": _share(HpaRate, values=(0.5, 0.7, 0.85)),
    "hpa-duty": _share(HpaDuty, values=(0.5, 0.7, 0.85)),
    "keda": _share(Keda),
    "kpa": Family("reactive", "target concurrency", SHARES, lambda _, target: Kpa(target)),
    "ray-serve": Family("reactive", "target ongoing", SHARES, lambda _, target: RayServe(target)),
    "aibrix": Family("reactive", "target concurrency", SHARES, lambda _, target: Apa(target)),
    "wva": Family("reactive", "spare queue", (3.0, 4.9), lambda _, spare: Wva(spare)),
    "dynamo-load": Family(
        "reactive", "queued a pod for +1", (0.1, 1.0), lambda _, up: DynamoLoad(up, 0.1 if up == 1.0 else 1e-9)
    ),
    "dynamo-sla": Family("reactive", "max wait s", (0.25, 0.5), lambda _, wait_s: DynamoSla(wait_s)),
    "dynamo-constant": _throughput(Constant),
    "dynamo-arima": _throughput(Arima),
    "dynamo-kalman": _throughput(Kalman),
    "dynamo-prophet-like": _throughput(ProphetLike),
    "dynamo-both": Family(
        "predictive",
        "share of capacity",
        (0.5, 0.7),
        lambda _, share: DynamoBoth(DynamoThroughput(Arima(), share), DynamoLoad()),
    ),
    "crane": _share(Crane, "predictive", (0.5, 0.7, 0.85)),
    "phpa": _share(Phpa, "predictive", (0.5, 0.7, 0.85)),
    "hybrid": Family(
        "predictive", "forecast quantile", (0.8, 0.95, 0.99), lambda case, level: Hybrid(level, case.objective)
    ),
    "bacc": Family(
        "predictive", "forecast quantile", (0.8, 0.95, 0.99), lambda case, level: Bacc(level, case.objective)
    ),
    "aws": _share(AwsPredictive, "predictive", (0.5, 0.7, 0.85)),
    "oracle-clairvoyant": Family(
        "oracle",
        "start-up quantile",
        (0.95,),
        lambda case, _: Clairvoyant(case.plan, case.start_up.median_s * math.exp(1.645 * case.start_up.sigma)),
    ),
    "oracle-forecast": Family(
        "oracle",
        "start-up quantile",
        (0.9,),
        lambda case, _: PerfectForecast(case.need, case.traffic.rates.bin_s, _lead_s(case)),
    ),
}


def choose(names: str) -> list[tuple[str, float]]:
    """(policy, knob) of every contender that `names` asks for: "all", or names and their beginnings with commas."""
    if names == "all":
        return [(policy, value) for policy, f in FAMILIES.items() for value in f.values if not f.of_scenes]
    chosen: list[tuple[str, float]] = []
    for name in filter(None, (part.strip() for part in names.split(","))):
        exact = [policy for policy in FAMILIES if policy == name]
        found = exact or [policy for policy in FAMILIES if policy.startswith(f"{name}-")]
        if not found:
            raise ValueError(f"policy {name!r} is not known; known are {', '.join(FAMILIES)}")
        chosen += [(policy, value) for policy in found for value in FAMILIES[policy].values]
    return list(dict.fromkeys(chosen))


def make_player(case: Case, policy: str, knob: float) -> tuple[Player, Pool]:
    """The player, and the pool as it has it."""
    family = FAMILIES[policy]
    if family.pool is not None:
        pool = family.pool(case.pool, knob)
        return OurPlayer(pool, case.forecasts), pool
    assert family.rival is not None  # a family is ours or a rival's
    return RivalPlayer(family.rival(case, knob)), case.pool
