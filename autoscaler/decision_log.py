"""The decision log: every tick with all that went into it, a line each, enough to decide it again.

A demand history is written once and then by what was new; trees that a fit brought are written when they are adopted.
Numbers are written so that reading them gives the same bits.
"""

from __future__ import annotations

import dataclasses
import json
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any, TextIO

import msgspec
import numpy as np

from autoscaler.decision import Decision
from autoscaler.loop import Look, Memory, choose, read_on
from autoscaler.observation import Floats, Observation
from autoscaler.pool import Pool
from autoscaler.trees import Trees

KIND = "autoscaler"
VERSION = 2
MOST_NEW_BINS = 64  # more than these are written as a whole history


class DecisionLogError(ValueError):
    """A log that cannot be replayed; says the line and what is wrong with it."""


class DecisionLog:
    """Appends to an open file. Set `Memory.record` to `record` before the first tick of that memory.

    It ends where the file takes no more (a full disk): decisions go on without it.
    """

    def __init__(self, file: TextIO, memory: Memory, ended: Callable[[OSError], None] = lambda _: None) -> None:
        """`ended` is told once, of what the file refused."""
        self._file, self._ended = file, ended
        self._pools: dict[str, str] = {}
        self._demand: dict[str, Floats] = {}
        self._write({"log": KIND, "version": VERSION, "gpu_budget": memory.gpu_budget, "build_bins": memory.build_bins})

    def record(self, seen: Sequence[Look], memory: Memory, now_s: float, decisions: Sequence[Decision]) -> None:
        """One tick."""
        for look in seen:
            settings = json.dumps(dataclasses.asdict(look.pool))
            if self._pools.get(look.pool.name) != settings:
                self._pools[look.pool.name] = settings
                self._append(f'{{"pool":{settings}}}\n')
        looks = [self._look(look) for look in seen]
        self._write({"now_s": now_s, "looks": looks, "decisions": [as_plain(decision) for decision in decisions]})
        if len(self._demand) > len(seen):  # pools that went, or could not be read: they begin anew
            here = {look.pool.name for look in seen}
            self._demand = {name: demand for name, demand in self._demand.items() if name in here}
            self._pools = {name: settings for name, settings in self._pools.items() if name in here}

    def adopted(self, pool: str, forecaster: int, trees: Trees) -> None:
        """A fit was adopted between two ticks, by the forecaster of the lead (0) or the one that looks further (1)."""
        fields = {field.name: getattr(trees, field.name) for field in dataclasses.fields(trees)}
        plain = {name: value.tolist() if isinstance(value, np.ndarray) else value for name, value in fields.items()}
        self._write({"adopted": pool, "forecaster": forecaster, "trees": plain})

    def read_on(self, bins: Mapping[str, int]) -> None:
        """So many bins of unread histories were fed between two ticks."""
        self._write({"read_on": dict(bins)})

    def _look(self, look: Look) -> dict[str, Any]:
        if look.observation is None:
            return {"pool": look.pool.name, "error": look.error}
        name, demand = look.pool.name, look.observation.demand
        fresh = _new_bins(self._demand.get(name), demand)
        self._demand[name] = demand.copy()
        plain = {
            field.name: _plain(getattr(look.observation, field.name))
            for field in dataclasses.fields(look.observation)
            if field.name != "demand"
        }
        kept = demand.size - fresh
        return {"pool": name, "observation": plain, "kept": kept, "new": demand[kept:].tolist()}

    def _write(self, line: object) -> None:
        self._append(json.dumps(line, separators=(",", ":")) + "\n")

    def _append(self, text: str) -> None:
        if self._file.closed:
            return
        try:
            self._file.write(text)
            self._file.flush()
        except OSError as error:
            with suppress(OSError):
                self._file.close()  # tries once more to write what is left
            self._ended(error)


def as_plain(decision: Decision) -> dict[str, Any]:
    """A decision as JSON values; equal text is equal to the last bit."""
    plain = {field.name: _plain(getattr(decision, field.name)) for field in dataclasses.fields(decision)}
    return typing.cast("dict[str, Any]", json.loads(json.dumps(plain)))


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    return value


def _new_bins(before: Floats | None, now: Floats) -> int:
    """How many bins at the end are new where all others are the last ones of `before`, bit by bit."""
    if before is not None:
        old, new = (np.ascontiguousarray(values, dtype=np.float64).view(np.int64) for values in (before, now))
        for fresh in range(min(MOST_NEW_BINS, new.size) + 1):
            kept = new.size - fresh
            if kept <= old.size and np.array_equal(new[:kept], old[old.size - kept :]):
                return fresh
    return now.size


@dataclasses.dataclass(frozen=True, slots=True)
class Difference:
    """A decision that came out otherwise."""

    line: int
    pool: str
    recorded: dict[str, Any]
    replayed: dict[str, Any]

    @property
    def fields(self) -> list[str]:
        names = self.recorded.keys() | self.replayed.keys()
        return sorted(name for name in names if self.recorded.get(name) != self.replayed.get(name))


@dataclasses.dataclass
class Replay:
    """What a replay found."""

    ticks: int = 0
    decisions: int = 0
    differences: list[Difference] = dataclasses.field(default_factory=list)


def replay(lines: Iterable[str | bytes]) -> Replay:
    """Decide every tick of a log again. Raises DecisionLogError for a log that is none."""
    found, memory = Replay(), Memory()
    pools: dict[str, Pool] = {}
    demand: dict[str, Floats] = {}
    for number, line in _parsed(lines):
        try:
            if number == 1:
                memory.gpu_budget, memory.build_bins = line["gpu_budget"], line["build_bins"]
            elif "pool" in line:
                pool = msgspec.convert(line["pool"], Pool, strict=False)
                pools[pool.name] = pool
            elif "read_on" in line:
                read_on(memory, sum(line["read_on"].values()))
            elif "adopted" in line:
                state = memory.pools[line["adopted"]]
                forecaster = (state, state.ahead)[line.get("forecaster", 0)].forecaster
                if forecaster is not None:
                    forecaster.adopt(_trees(line["trees"]))
            else:
                seen = [_seen(look, pools, demand) for look in line["looks"]]
                again = choose(seen, memory, line["now_s"])
                found.ticks += 1
                found.decisions += len(again)
                found.differences += _compare(number, line["decisions"], again)
        except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
            raise DecisionLogError(f"line {number}: {type(error).__name__}: {error}") from error
    return found


def _parsed(lines: Iterable[str | bytes]) -> Iterator[tuple[int, dict[str, Any]]]:
    number = 0
    for number, text in enumerate(lines, start=1):
        try:
            line = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise DecisionLogError(f"line {number} is cut or is no JSON: {error}") from error
        if number == 1 and (not isinstance(line, dict) or (line.get("log"), line.get("version")) != (KIND, VERSION)):
            raise DecisionLogError(f"line 1 is {text[:80]!r}, expected the head of an {KIND} log, version {VERSION}")
        yield number, line
    if number == 0:
        raise DecisionLogError("the log is empty")


def _seen(look: dict[str, Any], pools: dict[str, Pool], demand: dict[str, Floats]) -> Look:
    pool = pools[look["pool"]]
    if "observation" not in look:
        return Look(pool, None, look["error"])
    before = demand.get(pool.name, np.zeros(0))
    kept = before[before.size - look["kept"] :] if look["kept"] else np.zeros(0)
    demand[pool.name] = np.concatenate((kept, np.array(look["new"], dtype=np.float64)))
    hints = typing.get_type_hints(Observation)
    plain = look["observation"]
    fields = {name: msgspec.convert(value, hints[name], strict=False) for name, value in plain.items()}
    return Look(pool, Observation(demand=demand[pool.name], **fields))


def _trees(plain: dict[str, Any]) -> Trees:
    kinds = {"roots": np.int32, "feature": np.int32, "left": np.int32, "right": np.int32, "missing_left": np.bool_}
    arrays: dict[str, Any] = {
        name: np.array(value, dtype=kinds.get(name, np.float64)) if isinstance(value, list) else value
        for name, value in plain.items()
    }
    return Trees(**arrays)


def _compare(number: int, recorded: Sequence[dict[str, Any]], again: Sequence[Decision]) -> Iterator[Difference]:
    for was, decision in zip(recorded, again, strict=True):
        now = as_plain(decision)
        # As text: nan equals nan there, and 0.0 differs from -0.0.
        if json.dumps(was, sort_keys=True) != json.dumps(now, sort_keys=True):
            yield Difference(number, decision.pool, was, now)
