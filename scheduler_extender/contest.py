"""Who can still win: kube-scheduler's own plugins add a bounded number of points, so a node far enough behind cannot.

filter leaves such nodes out where it has many to name. For each node that is named kube-scheduler runs its score
plugins, sends the name again and reads a score: work that cannot change what it chooses.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from fleet.snapshot import Pod

# What the default plugins can add to one node and not to another (default_plugins.go, Kubernetes 1.36), each its weight
# times 100: NodeResourcesFit, NodeResourcesBalancedAllocation, ImageLocality, PodTopologySpread, InterPodAffinity.
PLUGIN_POINTS = 100 * (1 + 1 + 1 + 2 + 2)
TAINT_POINTS = 100 * 3  # TaintToleration, which tells nodes apart only by taints of the effect PreferNoSchedule
POINTS_PER_SCORE = 10  # times the extender's weight
FEW = 100  # kube-scheduler takes as many nodes that fit for enough, however large the cluster


@dataclass(slots=True)
class Contest:
    """How kube-scheduler adds up; `weight` is ours in its configuration, 0 where nobody said: then nobody is left out.

    It holds for the default score plugins with their default weights and where no other extender is asked after this
    one, which would choose among those that are left.
    """

    weight: int = 0
    taints_known: bool = False  # whether `set_avoided` is told of every node
    _avoided: set[str] = field(default_factory=set)

    def set_avoided(self, node: str, avoided: bool) -> None:
        """Take whether a node has a taint PreferNoSchedule."""
        (self._avoided.add if avoided else self._avoided.discard)(node)

    def narrows(self, pod: Pod, nodes: int) -> bool:
        """Whether anybody may be left out: of many nodes, for a pod whose wishes beyond ours are bounded."""
        return self.weight > 0 and nodes > FEW and not pod.has_wishes

    def contenders(self, scores: NDArray[np.int64]) -> NDArray[np.bool_] | None:
        """[nodes]: who can still win by these scores; None where everybody can.

        A node that is s behind the best has at most the plugins' points less 10 x weight x s against it. Two are named
        at the least: of one alone kube-scheduler would ask no scores, and with them goes the reservation.
        """
        points = PLUGIN_POINTS + (0 if self.taints_known and not self._avoided else TAINT_POINTS)
        made_good = points // (POINTS_PER_SCORE * self.weight)
        second, best = np.partition(scores, -2)[-2:]
        named: NDArray[np.bool_] = scores >= min(best - made_good, second)
        return None if named.all() else named
