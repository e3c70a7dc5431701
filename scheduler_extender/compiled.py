"""Loops that numba compiles where they are defined, so that no call waits for it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba


def compiled(signature: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Compile for one signature, and keep the result for the next start where a folder can be written.

    That is NUMBA_CACHE_DIR, else beside the source or in the user's cache. Without one, or on a full disk, each start
    compiles anew: six seconds for all of the extender's.
    """

    def compile_loop(loop: Callable[..., Any]) -> Callable[..., Any]:
        try:
            kept: Callable[..., Any] = numba.njit(signature, cache=True, error_model="numpy")(loop)
        except (RuntimeError, OSError):  # numba's word for nowhere to write, and the system's
            kept = numba.njit(signature, error_model="numpy")(loop)
        return kept

    return compile_loop
