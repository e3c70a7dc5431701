"""Who is named to kube-scheduler, and with what."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from scheduler_extender.scores import FEW, told


@given(st.integers(0, 400), st.lists(st.integers(0, 10), min_size=1, max_size=4), st.integers(0, 1 << 32))
def test_who_is_named_and_with_what(count: int, among: list[int], seed: int) -> None:
    given_scores = np.random.default_rng(seed).choice(np.array(among, np.int64), count)
    points, least = told(given_scores)
    named = points >= least
    if count <= FEW:
        assert named.all() and (points == given_scores).all()
        return
    dearer_half = np.sort(given_scores)[: (count + 1) // 2]
    if given_scores.max() == dearer_half.max():  # nobody is better: all are named, so that lots are drawn among them
        assert named.all() and (points == given_scores).all()
        return
    assert (named == (given_scores > dearer_half.max())).all()
    assert (points[named] == given_scores[named] - dearer_half.max()).all()  # no choice among them changes
    assert 0 < named.sum() <= count / 2
