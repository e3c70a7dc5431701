"""Calibrators told together are what each would be alone, and what the definition says of its window."""

import math

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from autoscaler.conformal import Calibrators

LEVELS = (0.3, 0.9, 0.99)
residual = st.one_of(st.just(math.nan), st.sampled_from([-1.0, 0.0, 0.5]), st.floats(-50.0, 50.0, width=32))


@settings(max_examples=60, deadline=None)
@given(
    window=st.sampled_from([3, 64, 65, 130]),
    stride=st.sampled_from([1, 3]),
    drawn=st.lists(st.tuples(residual, residual, residual), min_size=1, max_size=40),
    repeated=st.sampled_from([1, 9]),
)
def test_told_together_as_told_alone(window: int, stride: int, drawn: list[tuple[float, ...]], repeated: int) -> None:
    """Silent ones (nan), ties, windows that fill and slide, and more room for a longer one: to the last bit."""
    together = Calibrators([LEVELS] * 3, window, 0.05, stride)
    alone = [Calibrators([LEVELS], window, 0.05, stride) for _ in range(3)]
    for residuals in drawn * repeated:
        offsets = together.offsets()
        assert offsets.tobytes() == np.concatenate([one.offsets() for one in alone]).tobytes()
        seen = np.array(residuals)
        met = seen[:, None] <= offsets
        together.update(seen, met)
        for index, one in enumerate(alone):
            one.update(seen[index : index + 1], met[index : index + 1])


@settings(max_examples=60, deadline=None)
@given(window=st.sampled_from([5, 64, 70, 130]), drawn=st.lists(residual, min_size=150, max_size=190))
def test_an_offset_is_read_from_the_sorted_window(window: int, drawn: list[float]) -> None:
    """With levels that do not move, an offset is that quantile of the newest residuals; before enough, a prior."""
    calibrators = Calibrators([[0.25, 0.75]], window, gamma=0.0)
    kept: list[float] = []
    for value in drawn:
        newest = sorted(kept[-window:])
        assert calibrators.samples == len(newest)
        offsets = calibrators.offsets()[0]
        for offset, level in zip(offsets.tolist(), (0.25, 0.75), strict=True):
            rank = level * (len(newest) + 1) - 1.0
            if len(newest) >= 2.0 / (1.0 - level) and 0.0 < rank < len(newest) - 1:
                low = int(rank)
                assert offset == newest[low] + (newest[low + 1] - newest[low]) * (rank - low)
        calibrators.update(np.array([value]), np.zeros((1, 2), dtype=bool))
        kept += [value] if value == value else []


def test_a_level_beyond_the_worst_seen_grows_with_the_excess() -> None:
    """Missed again and again, the highest quantile leaves the worst residual behind, and comes back when it holds."""
    calibrators = Calibrators([[0.9]], window=100, gamma=0.05)
    for value in np.linspace(1.0, 2.0, 50):
        calibrators.update(np.array([value]), np.array([[False]]))
    beyond = calibrators.offsets()[0, 0]
    for _ in range(40):
        calibrators.update(np.array([1.0]), np.array([[True]]))
    assert beyond > 2.0 >= calibrators.offsets()[0, 0]


def test_without_an_outcome_the_prior_holds() -> None:
    """Quantiles of the normal distribution, and never less than the worst that was seen."""
    calibrators = Calibrators([[0.5, 0.9]], window=100)
    assert calibrators.offsets().tolist() == [[0.0, 1.28]]
    calibrators.update(np.array([7.0]), np.array([[False, False]]))
    assert calibrators.offsets()[0, 1] == 7.0


def test_late_misses_move_a_level_so_far_and_fade() -> None:
    """With a gain, misses widen at once, never to the outermost errors, and are forgotten when coverage is as asked."""
    calibrators = Calibrators([[0.9], [0.9]], window=200, gamma=[0.0, 0.05], gain=1.5, memory=10.0)

    def tell(value: float, met: bool) -> None:
        calibrators.update(np.array([value, value]), np.array([[met], [met]]))

    def rest() -> None:
        for turn in range(200):
            tell((turn * 7 % 200) / 200, turn % 10 != 0)

    rest()
    before = calibrators.offsets()[:, 0]
    for _ in range(30):
        tell(0.5, met=False)
    missed = calibrators.offsets()[:, 0]
    assert (missed > before + 0.02).all()
    assert (missed < 0.98).all()
    rest()
    faded, summed = calibrators.offsets()[:, 0]
    assert abs(faded - before[0]) < 0.03  # its gamma is nothing: nothing is summed up
    assert summed > faded + 0.02
