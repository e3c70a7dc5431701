"""Forecasts of one traffic, computed once and read by every player that meets it.

What is forecast depends on the demand alone, never on what a player does, so one forecaster a shape runs along and its
answers are kept bin by bin. The boosted trees are fitted when a fit is due and used from the next bin on: a run is a
function of its seed, as no background thread would leave it. Processes that play the same traffic find them
in a folder.
"""

from __future__ import annotations

import hashlib
import math
import os
import pickle
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from autoscaler.boosting import fit
from autoscaler.forecast import LEADS_AHEAD, LEARNING_LEVEL, Forecaster, Shape
from autoscaler.loop import ForecastView
from autoscaler.observation import Floats
from autoscaler.trees import FitTask, Trees


@dataclass(frozen=True, slots=True)
class _Answer:
    """What one forecaster said after one bin."""

    quantiles: Floats
    later: tuple[float | None, ...]  # by LEADS_AHEAD
    view: ForecastView


class _Master:
    """One forecaster and all that it said; bins are numbered from the oldest of the history on."""

    def __init__(self, shape: Shape, silent_bins: int, history_bins: int) -> None:
        self.forecaster = Forecaster(shape, silent_bins)
        self._history_bins = history_bins
        self.answers: list[_Answer | None] = []
        self.rates: list[float] = []
        self.ms: list[float] = []  # what each bin cost, fits left out

    def advance(self, rate: float) -> None:
        forecaster, before_s = self.forecaster, time.perf_counter()
        forecaster.update(rate)
        quantiles, view = forecaster.quantiles(), None
        if forecaster.seen >= self._history_bins - 1:
            view = forecaster.view()
        known = quantiles is not None and view is not None
        later = tuple(map(forecaster.later, LEADS_AHEAD)) if known else ()
        self.answers.append(_Answer(quantiles, later, view) if known else None)  # type: ignore[arg-type]
        self.rates.append(rate)
        self.ms.append((time.perf_counter() - before_s) * 1e3)
        if forecaster.seen >= self._history_bins and forecaster.refit_due:
            forecaster.adopt(fit(forecaster.refit_task()))


class ForecastBook:
    """All forecasters of one traffic, by their shape. Set `PoolMemory.new_forecaster` to `reader`."""

    def __init__(self, levels: Sequence[float], history_bins: int, silent_bins: int) -> None:
        """`levels`: every quantile that a reader may work with. Nothing is issued in the first `silent_bins`."""
        self._levels = tuple(sorted({0.5, LEARNING_LEVEL, *levels}))
        self._history_bins, self._silent_bins = history_bins, silent_bins
        self._masters: dict[Shape, _Master] = {}
        self.folder: Path | None = None  # of this traffic alone; None: nobody else is to find them

    def reader(self, shape: Shape, silent_bins: int, sparse_bins: int) -> Reader:
        """A forecaster of this shape for one player; how it reads the history is the book's."""
        del silent_bins, sparse_bins
        key = replace(shape, quantiles=self._levels, working=self._levels.index(LEARNING_LEVEL))
        if key not in self._masters:
            self._masters[key] = _Master(key, self._silent_bins, self._history_bins)
        return Reader(self._masters[key], shape)

    def save(self) -> None:
        """Write what goes further than the folder's; where there is no room, each process forecasts for itself."""
        if self.folder is None:
            return
        for shape, master in self._masters.items():
            path = self.folder / f"{_name(shape)}-{len(master.rates)}.forecasts"
            if path.exists():
                continue
            part = path.with_suffix(f".{os.getpid()}")
            try:
                part.write_bytes(pickle.dumps((shape, master), pickle.HIGHEST_PROTOCOL))
                part.rename(path)
            except OSError:
                part.unlink(missing_ok=True)

    def load(self) -> None:
        """Take from the folder what goes further than what is here."""
        if self.folder is None:
            return
        bins_of = {_name(shape): len(master.rates) for shape, master in self._masters.items()}
        for path in self.folder.glob("*.forecasts"):
            name, bins = path.stem.rsplit("-", 1)
            if int(bins) > bins_of.get(name, 0):
                with suppress(OSError):
                    shape, master = pickle.loads(path.read_bytes())  # written by a process of this very run
                    self._masters[shape], bins_of[name] = master, int(bins)

    @property
    def shapes(self) -> set[Shape]:
        """Of the forecasters that were asked for."""
        return set(self._masters)

    def step_ms(self) -> list[float]:
        """Milliseconds of every bin that was forecast, of all shapes."""
        return [ms for master in self._masters.values() for ms in master.ms[self._history_bins :]]


def _name(shape: Shape) -> str:
    return hashlib.sha1(repr(shape).encode()).hexdigest()


class Reader:
    """Reads a master's answers at its own pace; the first reader of a bin makes the master work."""

    def __init__(self, master: _Master, shape: Shape) -> None:
        self._master, self._shape = master, shape
        self._seen = 0
        levels = master.forecaster.shape.quantiles
        self._columns = [levels.index(level) for level in shape.quantiles]
        self._view: tuple[int, ForecastView | None] = (0, None)  # after so many bins: a bin is looked at more than once

    @property
    def shape(self) -> Shape:
        return self._shape

    def update(self, rate: float) -> None:
        """The next bin. Raises ValueError where it is not what another reader gave for it."""
        if self._seen == len(self._master.rates):
            self._master.advance(rate)
        known = self._master.rates[self._seen]
        if known != rate and not (math.isnan(known) and math.isnan(rate)):
            raise ValueError(f"bin {self._seen} is {rate}, another player of this traffic gave {known}")
        self._seen += 1

    @property
    def _answer(self) -> _Answer | None:
        return self._master.answers[self._seen - 1] if self._seen else None

    def quantiles(self) -> Floats | None:
        answer = self._answer
        return None if answer is None else answer.quantiles[self._columns]

    def later(self, leads: int) -> float | None:
        answer = self._answer
        return None if answer is None else answer.later[LEADS_AHEAD.index(leads)]

    def view(self) -> ForecastView | None:
        """The master's view; its coverage is that of the level that all learn by."""
        if self._view[0] != self._seen:
            self._view = (self._seen, self._look())
        return self._view[1]

    def _look(self) -> ForecastView | None:
        answer = self._answer
        if answer is None:
            return None
        levels = self._shape.quantiles
        quantiles = {level: answer.view.quantiles[level] for level in levels}
        return replace(answer.view, quantiles=quantiles, working_quantile=levels[self._shape.working])

    @property
    def refit_due(self) -> bool:
        return False  # the master fits by itself

    def refit_task(self) -> FitTask:
        return self._master.forecaster.refit_task()

    def adopt(self, trees: Trees) -> None:
        self._master.forecaster.adopt(trees)
