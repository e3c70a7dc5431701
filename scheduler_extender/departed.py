"""Deleted pods that their node's exporter may still name: their places are free whatever it says. No clock, no I/O."""

from __future__ import annotations

from collections.abc import Set

from fleet.snapshot import Node

DEPARTED_FOR_S = 60.0  # how long a deleted pod outlives in what an exporter says, once that names it no more
_NOBODY: dict[str, float] = {}


class Departed:
    """By node, as every change of a row asks for those of one node: a burst leaves thousands on all of them."""

    def __init__(self) -> None:
        self._by_node: dict[str, dict[str, float]] = {}  # node -> uid -> when it went
        self._node_of: dict[str, str] = {}

    def on(self, node: str) -> Set[str]:
        """UIDs of those that went from a node."""
        return self._by_node.get(node, _NOBODY).keys()

    def add(self, uid: str, node: str, now_s: float) -> None:
        """The pod went from the node."""
        self.forget(uid)
        self._by_node.setdefault(node, {})[uid] = now_s
        self._node_of[uid] = node

    def forget(self, uid: str) -> bool:
        """The pod is there again, or nobody names it any more; whether it counted as gone."""
        node = self._node_of.pop(uid, None)
        if node is None:
            return False
        of_node = self._by_node[node]
        del of_node[uid]
        if not of_node:
            del self._by_node[node]
        return True

    def forget_node(self, node: str) -> None:
        """The node went, and its exporter with it."""
        for uid in list(self.on(node)):
            self.forget(uid)

    def drop_unnamed(self, node: Node, now_s: float) -> None:
        """Forget those that went a while ago and that the node's GPUs do not name any more."""
        past = [uid for uid, went_s in self._by_node.get(node.name, _NOBODY).items() if now_s - went_s > DEPARTED_FOR_S]
        if past:
            named = {cut.pod_uid for gpu in node.gpus for cut in gpu.slices}
            for uid in past:
                if uid not in named:
                    self.forget(uid)
