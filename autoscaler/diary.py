"""Experts that read past days bin by bin, unsmoothed: where demand follows a timetable, a jump stays a jump."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

DAYS = 7


class Diary:
    """The level of every bin of the last days, and what was highest at this time of each."""

    def __init__(self, day: int) -> None:
        """`day` in bins."""
        self._day = day
        self._levels = np.full((DAYS, day), math.nan, dtype=np.float32)  # [days, bins] by day modulo DAYS
        self.seen = 0
        self._answers: dict[int, list[float]] = {}  # by how many bins were asked for, until the next bin

    def update(self, level: float) -> None:
        """The next bin's level, nan without data."""
        self._levels[self.seen // self._day % DAYS, self.seen % self._day] = level
        self.seen += 1
        self._answers.clear()

    def peaks(self, bins: int) -> list[float]:
        """Highest level over the `bins` that follow this time of day, of yesterday, the day before, and so on.

        Days that are not known whole are nan, days before the first are left out.
        """
        answer = self._answers.get(bins)
        if answer is None:
            answer = self._answers[bins] = self._look(min(bins, self._day))
        return answer

    def _look(self, bins: int) -> list[float]:
        first, known = self.seen % self._day, self.seen // self._day
        if known == 0:
            return []
        today = known % DAYS
        rows = [(today - back) % DAYS for back in range(1, min(known, DAYS) + 1)]
        window = self._levels[rows, first : first + bins]
        over = first + bins - self._day
        if over > 0:  # past midnight: the beginning of the day after each; of yesterday's it is today's
            after = self._levels[[(row + 1) % DAYS for row in rows], :over]
            window = np.concatenate((window, after), axis=1)
        highest: list[float] = window.max(axis=1).tolist()
        return highest


class OfDays:
    """An expert: one number of what was highest at this time on past days, latest first."""

    def __init__(
        self, name: str, diary: Diary, pick: Callable[[Sequence[float]], float], at_least: int = 0, writes: bool = False
    ) -> None:
        """It looks `at_least` so many bins ahead. Of the experts of one diary one `writes` it."""
        self.name = name
        self._diary, self._pick, self._at_least, self._writes = diary, pick, at_least, writes

    def update(self, rate: float, level: float) -> None:
        if self._writes:
            self._diary.update(level)

    def peak(self, bins: int) -> float | None:
        known = [value for value in self._diary.peaks(max(bins, self._at_least)) if value == value]
        return self._pick(known) if known else None


def of_past_days(day: int) -> list[OfDays]:
    """The panel's members for a season of `day` bins."""
    diary = Diary(day)
    return [
        OfDays("sharp_day", diary, latest, writes=True),
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
