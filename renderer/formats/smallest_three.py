"""Quaternions stored as their three smallest components and the index of the largest."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from renderer.splats import Float32

_SLOTS = np.array([[1, 2, 3], [0, 2, 3], [0, 1, 3], [0, 1, 2]])  # where the stored three go, by largest


def place_largest(small: Float32, largest: NDArray[np.intp]) -> Float32:
    """[n, 4] out of the stored three [n, 3], in ascending order of component, and the index of the largest [n]."""
    out = np.empty((len(small), 4), np.float32)
    index = np.arange(len(small))
    out[index[:, None], _SLOTS[largest]] = small
    out[index, largest] = np.sqrt(np.maximum(0, 1 - (small * small).sum(axis=1)))
    return out
