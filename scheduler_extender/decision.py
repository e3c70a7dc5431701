"""What a call of the verbs and a binding are answered with: plain values that others explain and write down."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fleet.scene import SceneId
from fleet.snapshot import Pod
from scheduler_extender.fit import FITS, REASONS, Reason
from scheduler_extender.placement import Costs


@dataclass(frozen=True, slots=True, eq=False)
class Decision:
    """A prioritize call answered: entry i of everything is about `names[i]`."""

    pod: Pod
    names: Sequence[str]
    verdict: NDArray[np.int8]  # FITS or an index into REASONS
    costs: Costs
    total_s: NDArray[np.float64]  # infinite where the pod does not fit
    scores: NDArray[np.int64]
    age_s: NDArray[np.float64]  # of each digest; NaN where there was none
    winner: str  # empty where no node fits
    now_s: float  # when it was priced
    expected: Mapping[SceneId, float]  # the scenes that stood for those the pod does not name, by share
    contenders: NDArray[np.bool_] | None = None  # whom filter named, where it left out who cannot win

    @property
    def named_scores(self) -> NDArray[np.int64]:
        """The scores of those that filter named."""
        return self.scores if self.contenders is None else self.scores[self.contenders]

    def reason(self, index: int) -> Reason | None:
        verdict = int(self.verdict[index])
        return None if verdict == FITS else REASONS[verdict]


@dataclass(frozen=True, slots=True)
class Bound:
    """A pod seen on its node for the first time."""

    pod: Pod
    tier: str  # where its scenes lay there: resident, disk, fetching, peer, remote; none where it names none
