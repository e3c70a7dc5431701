"""Loops are compiled also where nothing can be kept."""

from __future__ import annotations

from typing import Any

from numba import types

from scheduler_extender.compiled import compiled


def test_a_loop_is_compiled_where_numba_finds_no_place_for_it() -> None:
    defined: dict[str, Any] = {}
    exec("def twice(number):\n    return 2 * number", defined)  # of no file, so there is no folder beside it
    twice = compiled(types.int64(types.int64))(defined["twice"])
    assert twice(21) == 42
    assert twice.signatures  # type: ignore[attr-defined]  # compiled, not interpreted
