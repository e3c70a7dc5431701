"""Pods that arrive, live and go: which slice each asks for, which scene, and what goes wrong meanwhile.

A loss system: Poisson arrivals, exponential lives, no queue. Everything is a function of the specification and a seed,
so policies that are compared see the same pods at the same moments.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fleet.mig import EIGHT_SLICES
from simulator.scene_trace import read_scene_trace, scenes_of

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

ROLES = ("1g", "1g-double", "2g", "3g", "4g", "7g")
ROLE_SLICES = tuple(EIGHT_SLICES.role(name).memory_slices for name in ROLES)
# openb: the pods of one GPU in the trace of FGD (Weng et al., USENIX ATC 2023; 8,152 pods, Apache-2.0) by gpu_milli:
# up to 143 a 1g, 286 a 2g, 429 a 3g, 572 a 4g, else a 7g.
MIXES: dict[str, tuple[float, ...]] = {
    "small": (0.5, 0.1, 0.2, 0.15, 0.03, 0.02),
    "uniform": (1.0, 1.0, 1.0, 1.0, 1.0, 1.0),
    "large": (0.1, 0.05, 0.15, 0.3, 0.1, 0.3),
    "openb": (32.0, 0.0, 280.0, 389.0, 971.0, 5317.0),
}
# Zipf-Mandelbrot (rank + q)^-s over 87 scenes, fitted to a public trace of model requests (Alibaba GenTD26): the first
# takes 30.7 % of the starts, the first five 71 %, the first twenty 93 %.
POPULARITY_EXPONENT = 2.12
POPULARITY_SHIFT = 2.1
MEAN_SCENE_BYTES = 3.3e9
_SIZE_SIGMA = 0.6
_SCENE_BYTES_LIMITS = (0.2e9, 12e9)


class WorkloadError(ValueError):
    """A workload that cannot be drawn; names the field, the value and what would be valid."""


@dataclass(frozen=True, slots=True)
class WorkloadSpec:
    """One cell of the rig: the fleet's size and what is asked of it."""

    mix: str = "small"
    load: float = 0.85  # memory slices asked for over memory slices there are
    nodes: int = 25
    gpus_per_node: int = 4
    arrivals: int = 20_000
    warm_up: int = 3_000  # first arrivals that no figure counts
    mean_life_s: float = 600.0
    scenes: int = 87  # 0: pods name no scene
    scene_trace: str = ""  # file of recorded requests whose objects are the scenes; else the fit below
    drift_per_h: float = 0.0  # share of the scenes that swap their popularity with another each hour
    burst_pods: int = 0  # one-slice pods of the rarest scene within a second, after half of the arrivals
    lost_nodes: int = 0  # nodes that fail for an hour, each with its pods and its cache, after half of the arrivals

    def __post_init__(self) -> None:
        if self.mix not in MIXES:
            raise WorkloadError(f"mix is {self.mix!r}, expected one of {', '.join(MIXES)}")
        if not self.load > 0:
            raise WorkloadError(f"load is {self.load}, expected a number above 0")
        if not 0 <= self.warm_up < self.arrivals:
            raise WorkloadError(f"warm_up is {self.warm_up}, expected 0 to below arrivals ({self.arrivals})")
        if self.scene_trace and (self.drift_per_h or not self.scenes):
            raise WorkloadError("scene_trace needs scenes above 0, and no drift_per_h: it drifts as it was recorded")
        if not 0 <= self.lost_nodes < self.nodes:
            raise WorkloadError(f"lost_nodes is {self.lost_nodes}, expected 0 to below nodes ({self.nodes})")


@dataclass(frozen=True, slots=True, eq=False)
class Workload:
    """Arrivals in order, entry i of each array about pod i, and the scenes they name."""

    spec: WorkloadSpec
    arrive_s: Floats
    life_s: Floats
    role: Integers  # index into ROLES
    scene: Integers  # -1: none
    scene_bytes: Floats  # [scenes]
    measured: NDArray[np.bool_]  # past the warm-up
    node_losses: tuple[tuple[float, int], ...]  # (when, node)


def draw(spec: WorkloadSpec, seed: int) -> Workload:
    """The pods of one run."""
    random = np.random.default_rng((seed, 0x9AD5))
    shares = np.array(MIXES[spec.mix]) / sum(MIXES[spec.mix])
    mean_slices = float(shares @ np.array(ROLE_SLICES))
    rate_per_s = spec.load * spec.nodes * spec.gpus_per_node * 8 / (mean_slices * spec.mean_life_s)
    arrive_s = np.cumsum(random.exponential(1 / rate_per_s, spec.arrivals))
    life_s = random.exponential(spec.mean_life_s, spec.arrivals)
    role = random.choice(len(ROLES), spec.arrivals, p=shares)
    scene_bytes = _scene_bytes(spec.scenes, random)
    scene = _scenes(spec, arrive_s, random)
    measured = np.arange(spec.arrivals) >= spec.warm_up
    half_s = float(arrive_s[spec.arrivals // 2])
    if spec.burst_pods:
        at_s = half_s + np.sort(random.random(spec.burst_pods))
        order = np.argsort(np.concatenate([arrive_s, at_s]), kind="stable")
        arrive_s = np.concatenate([arrive_s, at_s])[order]
        life_s = np.concatenate([life_s, random.exponential(spec.mean_life_s, spec.burst_pods)])[order]
        role = np.concatenate([role, np.zeros(spec.burst_pods, np.int64)])[order]
        scene = np.concatenate([scene, np.full(spec.burst_pods, spec.scenes - 1)])[order]
        measured = np.concatenate([measured, np.ones(spec.burst_pods, np.bool_)])[order]
    lost = random.permutation(spec.nodes)[: spec.lost_nodes]
    losses = tuple((half_s, int(node)) for node in lost)
    return Workload(spec, arrive_s, life_s, role, scene, scene_bytes, measured, losses)


def scene_shares(scenes: int) -> Floats:
    """[scenes]: each scene's share of the starts, the most popular first."""
    weights = (np.arange(1, scenes + 1) + POPULARITY_SHIFT) ** -POPULARITY_EXPONENT
    shares: Floats = weights / weights.sum()
    return shares


def _scene_bytes(scenes: int, random: np.random.Generator) -> Floats:
    drawn = random.lognormal(0.0, _SIZE_SIGMA, scenes)
    return np.clip(drawn / max(drawn.mean(), 1e-9) * MEAN_SCENE_BYTES, *_SCENE_BYTES_LIMITS) if scenes else drawn


def _scenes(spec: WorkloadSpec, arrive_s: Floats, random: np.random.Generator) -> Integers:
    if not spec.scenes:
        return np.full(len(arrive_s), -1, np.int64)
    if spec.scene_trace:
        return scenes_of(read_scene_trace(Path(spec.scene_trace)), spec.scenes, arrive_s, random)
    rank = random.choice(spec.scenes, len(arrive_s), p=scene_shares(spec.scenes))
    if not spec.drift_per_h:
        return rank.astype(np.int64)
    of_rank = np.arange(spec.scenes)
    hour = (arrive_s // 3600).astype(np.int64)
    scene = np.empty(len(arrive_s), np.int64)
    for now in range(int(hour[-1]) + 1):
        for _ in range(random.poisson(spec.drift_per_h * spec.scenes / 2) if now else 0):
            one, other = random.integers(0, spec.scenes, 2)
            of_rank[one], of_rank[other] = of_rank[other], of_rank[one]
        scene[hour == now] = of_rank[rank[hour == now]]
    return scene
