"""Experts that read past days bin by bin, unsmoothed: where demand follows a timetable, a jump stays a jump."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from autoscaler.past import DAYS, Past


class Diary:
    """What was highest at this time of each of the last days."""

    def __init__(self, day: int, past: Past) -> None:
        """`day` in bins."""
        self._day = day
        self._past = past
        self._answers: dict[int, list[float]] = {}  # by how many bins were asked for, until the next bin
        self._answered_after = 0  # bins

    def peaks(self, bins: int) -> list[float]:
        """Highest level over the `bins` that follow this time of day, of yesterday, the day before, and so on.

        Days that are not known whole are nan, days before the first are left out.
        """
        if self._answered_after != self._past.seen:
            self._answers.clear()
            self._answered_after = self._past.seen
        answer = self._answers.get(bins)
        if answer is None:
            answer = self._answers[bins] = self._look(min(bins, self._day))
        return answer

    def _look(self, bins: int) -> list[float]:
        days = np.arange(1, min(self._past.seen // self._day, DAYS) + 1)
        window = self._past.back(days[:, None] * self._day - 1 - np.arange(bins))  # [days, bins]
        highest: list[float] = window.max(axis=1).tolist()
        return highest


class OfDays:
    """An expert: one number of what was highest at this time on past days, latest first."""

    def __init__(self, name: str, diary: Diary, pick: Callable[[Sequence[float]], float], at_least: int = 0) -> None:
        """It looks `at_least` so many bins ahead."""
        self.name = name
        self._diary, self._pick, self._at_least = diary, pick, at_least

    def update(self, rate: float, level: float) -> None:
        """The diary knows."""

    def peak(self, bins: int) -> float | None:
        known = [value for value in self._diary.peaks(max(bins, self._at_least)) if value == value]
        return self._pick(known) if known else None


def of_past_days(day: int, past: Past) -> list[OfDays]:
    """The panel's members for a season of `day` bins."""
    diary = Diary(day, past)
    return [
        OfDays("sharp_day", diary, latest),
        OfDays("hour_day", diary, latest, at_least=max(1, day // 24)),
        OfDays("usual_day", diary, middle),
        OfDays("usual_hour", diary, middle, at_least=max(1, day // 24)),
        OfDays("second_day", diary, second),
        OfDays("highest_day", diary, max),
    ]


def latest(values: Sequence[float]) -> float:
    """The first."""
    return values[0]


def middle(values: Sequence[float]) -> float:
    """The median, of an even number the higher of the two."""
    return sorted(values)[len(values) // 2]


def second(values: Sequence[float]) -> float:
    """The second highest, of one the only."""
    return sorted(values)[-2:][0]
