"""What the pods, the nodes and the waiting line of a fleet with scenes hold: arrays that compiled code works on.

Scenes are numbers, 0 the most popular; all are of one size, so room is counted in scenes. Times are seconds since the
start of the arrivals.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

# Where a scene stands in a pod: not there; in memory; asked for, not begun (a preload lets frames' loads go first);
# on its way to the node's disk; on the disk, without room in memory; being read into memory.
ABSENT, RESIDENT, QUEUED, FETCHING, CROWDED, LOADING = 0, 1, 2, 3, 4, 5
# Where it stands on a node.
REMOTE, DISK, COMING = 0, 1, 2

NEVER_S = -1e18
VISIT_S = 10.0  # uses that lie less apart are one visit (renderer.scene_cache)
PRELOAD_SPARES_S = 5.0  # a preload evicts nothing that a frame used within
SMALL_SHARE = 0.1  # of a pod's scenes that newcomers may take (renderer.eviction)
MOST_VISITS = 3

POD = np.dtype(
    [
        ("number", "i8"),
        ("node", "i8"),
        ("booted", "?"),
        ("usable", "?"),
        ("boot_s", "f8"),  # from then on it loads the scenes that it was told
        ("ready_s", "f8"),
        ("told", "i8"),  # scenes to load before it is ready
        ("loaded", "i8"),  # of these
        ("earlier_s", "f8"),  # ends of the two frames that it was handed last, the past where they are done
        ("later_s", "f8"),
        ("earlier_scene", "i8"),
        ("later_scene", "i8"),
        ("resident", "i8"),  # scenes
        ("loading", "i8"),  # scenes that have their room and are being read
        ("under_way", "i8"),  # loads that have begun, fetches for them included
        ("asked", "i8"),  # loads that the gateway waits for
        ("small", "i8"),  # scenes in the newcomers' queue
        ("ghosts", "i8"),
        ("sequence", "i8"),
    ]
)
HELD = np.dtype(
    [
        ("weight", "u8"),  # of the pod for the scene: renderer.gateway.rendezvous
        ("state", "i1"),
        ("asked", "?"),  # by the gateway
        ("preload", "?"),  # by the autoscaler: nobody waits for it yet
        ("main", "?"),  # stands in the main queue, else among the newcomers
        ("end_s", "f8"),  # LOADING: when it is there
        ("used_s", "f8"),
        ("order", "i8"),
        ("visits", "i8"),
        ("ghost", "i8"),  # order among what went unvisited; 0: it did not
    ]
)
NODE = np.dtype([("fetches", "i8"), ("end_s", "f8"), ("scenes", "i8")])  # end of the first fetch; scenes on the disk
ON_NODE = np.dtype([("state", "i1"), ("used_s", "f8")])
FETCH = np.dtype([("scene", "i8"), ("left_s", "f8"), ("urgent", "?")])
LINE = np.dtype([("first", "i8"), ("last", "i8"), ("waiting", "i8")])  # requests of one scene that wait
LOAD = np.dtype([("pod", "i8"), ("scene", "i8")])
FLEET = np.dtype(
    [
        ("head", "i8"),  # the next arrival
        ("now_s", "f8"),
        ("active", "i8"),  # pods
        ("starting", "i8"),
        ("loads", "i8"),
        ("crowded", "i8"),
        ("lines", "i8"),  # scenes that somebody waits for
        ("waiting", "i8"),
        ("next_s", "f8"),  # of everything but arrivals and frames that end
        ("stirred", "?"),  # `next_s` is no longer sure
        ("cold", "i8"),
        ("scene_cold", "i8"),
        ("loads_done", "i8"),
        ("fetches_done", "i8"),
    ]
)


class Terms(NamedTuple):
    """What does not change while it is played."""

    per_pod: int
    per_node: int
    load_s: float
    fetch_s: float
    max_wait_s: float


class Fleet(NamedTuple):
    """All of it; `fleet[0]` are the counts."""

    fleet: Any
    pods: Any  # [slots]
    active: Any  # [slots] slots in use, in no order
    told: Any  # [slots, scenes of a pod] what each loads before it is ready
    held: Any  # [scenes, slots]
    nodes: Any  # [nodes]
    on_node: Any  # [nodes, scenes]
    fetches: Any  # [nodes, scenes] in their order
    loads: Any  # not ended, in the order in which they were asked for
    asks: Any  # [scenes] loads that the gateway asks for now
    lines: Any  # [scenes]
    waited_for: Any  # [scenes] those with a line, the one that formed first before the others
    following: Any  # [requests] the next one of the same line
    met: Any  # [requests] of those that waited: 1 no ready pod had the scene, 2 a pod was starting


class Books(NamedTuple):
    """What is counted; columns as in simulator.queue."""

    seconds: Any
    days: Any
    histogram: Any


def empty_fleet(scenes: int, slots: int, nodes: int, requests: int, per_pod: int) -> Fleet:
    """Nodes with empty disks, no pod."""
    fleet = np.zeros(1, FLEET)
    fleet["next_s"] = np.inf
    node = np.zeros(nodes, NODE)
    node["end_s"] = np.inf
    return Fleet(
        fleet=fleet,
        pods=np.zeros(slots, POD),
        active=np.zeros(slots, np.int64),
        told=np.zeros((slots, max(1, per_pod)), np.int64),
        held=np.zeros((scenes, slots), HELD),
        nodes=node,
        on_node=np.zeros((nodes, scenes), ON_NODE),
        fetches=np.zeros((nodes, scenes), FETCH),
        loads=np.zeros(slots * scenes, LOAD),
        asks=np.zeros(scenes, LOAD),
        lines=np.zeros(scenes, LINE),
        waited_for=np.zeros(scenes, np.int64),
        following=np.empty(requests, np.int32),  # pages that nobody waits in are never touched
        met=np.empty(requests, np.int8),
    )
