"""What one pool saw at one moment: plain values, filled by a Cluster, read by the policy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from fleet.scene import SceneId

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class StartingPod:
    """A pod that was asked for and is not ready yet."""

    uid: str
    age_s: float  # since it was asked for
    stage: str = ""  # provisioning, fetching, loading; empty: not known


@dataclass(frozen=True, slots=True)
class PodState:
    """One pod that exists: ready, starting or draining."""

    uid: str
    node: str = ""
    ready: bool = True
    draining: bool = False
    resident: tuple[SceneId, ...] = ()  # scenes in its memory
    budget_bytes: int = 0  # scenes it may hold; 0: not known
    in_flight: int = 0
    capacity_type: str = ""  # name of the pool's capacity type that it runs on; empty: not known
    healthy: bool = True  # False: on a slice that its node calls unhealthy


@dataclass(frozen=True, slots=True)
class NodeState:
    """One node and the scenes that lie whole on its disk."""

    name: str
    on_disk: tuple[SceneId, ...] = ()
    free_bytes: int = 0
    fetch_bytes_per_s: float = 0.0  # 0: not measured
    awaits: int = 0  # pods of the pool that have a place kept on it


@dataclass(frozen=True, slots=True)
class ServiceTime:
    """Seconds of one frame on one pod, without waiting and without the first frames after a start."""

    mean_s: float
    cv: float = 1.0  # standard deviation / mean
    samples: int = 0


@dataclass(frozen=True, slots=True)
class Observation:
    """Everything that a decision may use. None is "not known" and never zero."""

    pool: str
    now_s: float
    bin_s: float
    demand: Floats  # [bins] arrivals in each bin, oldest first, nan = no data; the last element is the last full bin
    ready: int
    desired: int  # replicas in the spec
    starting: tuple[StartingPod, ...] = ()
    pending: float | None = None  # requests that wait, in the gateway and in the pods, without those that render
    queue_to_compute: float | None = None
    service: ServiceTime | None = None
    startup_s: tuple[float, ...] = ()  # seconds from ask to ready of recent starts, oldest first
    node_s: tuple[float, ...] = ()  # seconds from ask to a place, of recent pods that a new node came for
    data_age_s: float = 0.0  # now - end of the last element of `demand`
    scene_demand: Mapping[SceneId, float] = field(default_factory=dict)  # arrivals of each scene over the last bins
    scene_bytes: Mapping[SceneId, int] = field(default_factory=dict)  # what each scene takes in a pod's memory
    pods: tuple[PodState, ...] = ()
    unhealthy: int = 0  # of `desired`: pods on unhealthy slices; neither in `ready` nor in `starting`
    nodes: tuple[NodeState, ...] = ()
    trusted: bool = True  # False: the last look at the source failed, so nothing may shrink by it
    served: float | None = None  # requests that were answered since the last tick
    late: float | None = None  # of these, how many waited longer than the objective
    note: str = ""  # what the source of the demand has to say, for the explanation
