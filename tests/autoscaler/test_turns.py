"""Whose turn it is to ask a server that may hang."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from autoscaler.turns import LONGEST_PAUSE, Turns

POOLS = "abcdefgh"


def play(hangs: Callable[[str, int], bool], ticks: int) -> list[str]:
    """The pools that got an answer, by tick; nobody waits twice in one."""
    turns, got = Turns(), []
    for number in range(ticks):
        answered, waits = "", 0
        for name in POOLS:
            if turns.refusal(name, 15.0 * number):
                continue
            if hangs(name, number):
                turns.unanswered(name, "no answer")
                waits += 1
            else:
                turns.answered(name)
                answered += name
        assert waits <= 1
        got.append(answered)
    return got


@pytest.mark.parametrize("slow", ["a", "d", "h", "ag"])
def test_pools_that_are_slow_for_themselves_seldom_keep_the_others_waiting(slow: str) -> None:
    got = play(lambda name, _: name in slow, 400)
    others = [name for name in POOLS if name not in slow]
    known = min(sum(name in answered for answered in got) for name in others)
    assert known >= 400 * (1.0 - len(slow) / LONGEST_PAUSE) - 10


def test_pools_that_were_slow_are_asked_again_soon_after_they_are_not() -> None:
    got = play(lambda name, number: name in "ag" and number < 200, 200 + LONGEST_PAUSE + 2)
    assert got[-1] == POOLS


@pytest.mark.parametrize("outage", [1, 3, 200])
def test_after_an_outage_of_all_everybody_is_asked_at_once(outage: int) -> None:
    got = play(lambda _, number: number < outage, outage + 3)
    assert got[-1] == POOLS
