"""Which scenes lie on a node's disk, as labels of the node: for clusters whose scheduler nobody may touch.

A pod's preferred node affinity then does a part of what the extender does: it brings a pod to where its scenes lie. It
knows no sizes, no time to fetch and no fragmentation of GPUs, and labels trail the disk by a tick.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import structlog

from fleet.digest import CachedScene, NodeDigest
from fleet.labels import SCENE_LABEL_PREFIX, SCENE_ON_DISK
from kube.connection import Connection
from kube.errors import KubeError
from kube.objects import NODES, Node
from kube.writes import patch

NODES_A_TICK = 20  # patched at most: what the API server sees of a fleet that changes all at once
log = structlog.get_logger()


def label_changes(labels: Mapping[str, str], scenes: Iterable[CachedScene], most: int) -> dict[str, str | None]:
    """What to set (None: to remove) so that a node's labels name the `most` scenes that were used last."""
    latest = sorted(scenes, key=lambda scene: (-scene.last_used_s, scene.id))[:most]
    wanted = {f"{SCENE_LABEL_PREFIX}{scene.id}" for scene in latest}
    changes: dict[str, str | None] = {name: SCENE_ON_DISK for name in sorted(wanted) if name not in labels}
    gone = (name for name in labels if name.startswith(SCENE_LABEL_PREFIX) and name not in wanted)
    return changes | dict.fromkeys(gone)


class SceneLabels:
    """Writes them; `guard(seconds)` raises where we may not write. A node without a digest keeps what it has."""

    def __init__(
        self,
        connection: Connection,
        nodes: Callable[[], Mapping[str, Node]],
        digests: Callable[[], Mapping[str, NodeDigest]],
        guard: Callable[[float], object],
        most: int,
        write_s: float,
    ) -> None:
        self._connection = connection
        self._nodes = nodes
        self._digests = digests
        self._guard = guard
        self._most = most
        self._write_s = write_s

    def write(self) -> None:
        """Bring the labels of up to NODES_A_TICK nodes into step with their disks. Never raises."""
        left = NODES_A_TICK
        digests = self._digests()
        for name, node in self._nodes().items():
            digest = digests.get(name)
            if digest is None:
                continue
            changes = label_changes(node.metadata.labels or {}, digest.scene_cache.scenes, self._most)
            if not changes:
                continue
            try:
                self._guard(self._write_s)
                patch(self._connection, NODES.path(None, name), {"metadata": {"labels": changes}}, self._write_s)
            except KubeError as error:
                log.warning("scene labels not written", node=name, error=str(error))
            left -= 1
            if not left:
                return
