"""Decisions that can be made again: every change of state and every decision, one JSON line each.

A decision follows from the changes before it and nothing else, so a file that begins with an empty cluster replays to
the same bits. Each decision line carries a digest of all lines of state before it and one of every number that came
out: a replay that differs knows whether the state or the arithmetic did.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

import msgspec
import structlog

from fleet.digest import NodeDigest
from fleet.scene import SceneId
from fleet.snapshot import Gpu, Pod, Sharing
from scheduler_extender.cluster import Cluster
from scheduler_extender.decision import Bound, Decision
from scheduler_extender.explanation import best_lines
from scheduler_extender.prices import Prices

VERSION = 1
log = structlog.get_logger()
_encode = msgspec.json.Encoder().encode


class JournalError(ValueError):
    """A journal that cannot be written or read; says which line and why."""


class _Line(msgspec.Struct, omit_defaults=True):
    """One line; which fields it has follows from `kind`."""

    # start, decision, or a change: digest, confirm, node, node_gone, inventory, sharing, pod, gone, capacity, forecast,
    # expire
    kind: str
    now_s: float = 0.0
    version: int = 0
    prices: Prices | None = None
    time_to_live_s: float = 0.0
    nodes: list[str] | None = None
    node: str = ""
    digest: NodeDigest | None = None
    gpus: tuple[Gpu, ...] | None = None
    sharing: Sharing | None = None
    pod: Pod | None = None
    uid: str = ""
    capacity_type: str = ""
    pool: str = ""
    demand: dict[SceneId, float] | None = None
    names: Sequence[str] | None = None  # absent: those of the decision before
    winner: str = ""
    best: list[dict[str, Any]] | None = None
    state: str = ""
    numbers: str = ""


_decode = msgspec.json.Decoder(_Line).decode


class Journal:
    """The files: one of `file_bytes` after the other, `path` the newest; all together stop to grow at `most_bytes`.

    An earlier one is `path` with .1, .2, … behind it, the oldest first. None is removed: decisions follow from all.
    """

    def __init__(self, path: Path, most_bytes: int, file_bytes: int = 64 << 20) -> None:
        self._path, self._file_bytes = path, file_bytes
        self._left_bytes, self._in_file_bytes, self._files = most_bytes, 0, 0
        try:
            if (path.exists() and path.stat().st_size) or _earlier(path):
                raise JournalError("the file holds decisions of another run: give a new one, or move it away")
            self._file = path.open("ab")
        except OSError as error:
            raise JournalError(str(error)) from error

    def write(self, line: bytes, at_once: bool) -> None:
        if self._left_bytes <= 0:
            return
        self._left_bytes -= len(line)
        try:
            if self._in_file_bytes and self._in_file_bytes + len(line) > self._file_bytes:
                self._turn()
            self._in_file_bytes += len(line)
            self._file.write(line)
            if at_once:
                self._file.flush()
        except OSError as error:
            self._left_bytes = 0
            log.error("decisions are not recorded any more", error=str(error))
            return
        if self._left_bytes <= 0:
            self._file.flush()
            log.warning("decisions are not recorded any more: the files have their size")

    def _turn(self) -> None:
        """The file that is full gets its number, and a new one its name."""
        self._file.close()
        self._files += 1
        self._path.rename(self._path.with_name(f"{self._path.name}.{self._files}"))
        self._file = self._path.open("ab")
        self._in_file_bytes = 0


def _earlier(path: Path) -> list[Path]:
    found = [each for each in path.parent.glob(f"{path.name}.*") if each.name.removeprefix(f"{path.name}.").isdecimal()]
    return sorted(found, key=lambda each: int(each.suffix[1:]))


def journal_lines(path: Path) -> Iterator[bytes]:
    """Every line of a journal, from its first file to `path`; raises JournalError for a gap and OSError."""
    earlier = _earlier(path)
    for number, each in enumerate(earlier, 1):
        if int(each.suffix[1:]) != number:
            raise JournalError(f"{path.name}.{number} is missing: decisions follow from all files before them")
    for each in (*earlier, path):
        with each.open("rb") as lines:
            yield from lines


class RecordedCluster(Cluster):
    """A cluster that writes down whatever changes it and whatever it decides."""

    def __init__(
        self, write: Callable[[bytes, bool], None], configured: Sequence[str], prices: Prices, time_to_live_s: float
    ) -> None:
        super().__init__(configured, prices, time_to_live_s)
        self._write_line = write
        self._chain = b""
        self._undone: list[tuple[Decision, float]] = []  # answered, not written yet
        self._last_names: Sequence[str] | None = None
        start = _Line("start", version=VERSION, prices=self.prices, time_to_live_s=time_to_live_s)
        start.nodes = list(configured)
        self._record(start)

    def _take_digest(self, name: str, digest: NodeDigest, now_s: float) -> None:
        self._record(_Line("digest", now_s, node=name, digest=digest))
        super()._take_digest(name, digest, now_s)

    def _confirm(self, name: str, seen_s: float) -> None:
        self._record(_Line("confirm", seen_s, node=name))
        super()._confirm(name, seen_s)

    def add_node(self, name: str) -> None:
        self._record(_Line("node", node=name))
        super().add_node(name)

    def remove_node(self, name: str) -> None:
        self._record(_Line("node_gone", node=name))
        super().remove_node(name)

    def set_inventory(self, name: str, gpus: tuple[Gpu, ...]) -> None:
        self._record(_Line("inventory", node=name, gpus=gpus))
        super().set_inventory(name, gpus)

    def set_sharing(self, name: str, sharing: Sharing | None) -> None:
        self._record(_Line("sharing", node=name, sharing=sharing))
        super().set_sharing(name, sharing)

    def set_pod(self, pod: Pod, now_s: float) -> Bound | None:
        self._record(_Line("pod", now_s, pod=pod))
        return super().set_pod(pod, now_s)

    def remove_pod(self, uid: str, now_s: float) -> None:
        self._record(_Line("gone", now_s, uid=uid))
        super().remove_pod(uid, now_s)

    def set_capacity_type(self, name: str, capacity_type: str) -> None:
        self._record(_Line("capacity", node=name, capacity_type=capacity_type))
        super().set_capacity_type(name, capacity_type)

    def set_forecast(self, pool: str, demand: Mapping[SceneId, float]) -> None:
        self._record(_Line("forecast", pool=pool, demand=dict(demand)))
        super().set_forecast(pool, demand)

    def expire(self, now_s: float) -> None:
        if self.reservations.due(now_s):
            self._record(_Line("expire", now_s))
        super().expire(now_s)

    def reserve(self, decision: Decision, now_s: float) -> None:
        super().reserve(decision, now_s)
        self._undone.append((decision, now_s))

    def settle(self) -> None:
        super().settle()
        self._write_decisions()

    def _record(self, line: _Line) -> None:
        self._write_decisions()
        written = _encode(line) + b"\n"
        self._chain = chained(self._chain, written)
        self._write_line(written, False)

    def _write_decisions(self) -> None:
        for decision, now_s in self._undone:
            names = None if decision.names == self._last_names else list(decision.names)
            self._last_names = decision.names
            line = _Line("decision", now_s, pod=decision.pod, names=names, winner=decision.winner)
            line.best = best_lines(decision, 3)
            line.state, line.numbers = self._chain.hex(), numbers_of(decision)
            self._write_line(_encode(line) + b"\n", True)
        self._undone.clear()


def chained(before: bytes, line: bytes) -> bytes:
    """The digest of all lines of state up to this one."""
    return blake2b(before + line, digest_size=16).digest()


def numbers_of(decision: Decision) -> str:
    """A digest of every number of a decision, bit for bit."""
    costs = decision.costs
    hashed = blake2b(decision.winner.encode(), digest_size=16)
    for numbers in (
        decision.verdict,
        costs.tier,
        costs.time_to_ready_s,
        costs.fragmentation_s,
        costs.eviction_s,
        costs.trust,
        costs.crowding_s,
        costs.node_s,
        decision.total_s,
        decision.scores,
        decision.age_s,
    ):
        hashed.update(numbers.tobytes())
    return hashed.hexdigest()


@dataclass(frozen=True, slots=True)
class Replayed:
    """A decision made again; `difference` is empty where it came out the same."""

    line: int
    decision: Decision
    cluster: Cluster  # as it was when it decided; it changes with the next one
    difference: str


def replay(lines: Iterable[bytes]) -> Iterator[Replayed]:
    """Make the decisions of a journal again; raises JournalError where a line cannot be read."""
    cluster: Cluster | None = None
    chain = b""
    names: Sequence[str] = []
    for number, written in enumerate(lines, 1):
        try:
            line = _decode(written)
        except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
            raise JournalError(f"line {number}: {error}") from error
        if cluster is None:
            if line.kind != "start" or line.version != VERSION:
                raise JournalError(f"line {number}: expected the start of a journal of version {VERSION}")
            cluster = Cluster(line.nodes or [], line.prices, line.time_to_live_s)
        elif line.kind == "decision" and line.pod is not None:
            names = names if line.names is None else line.names
            decision = cluster.decide(line.pod, names, line.now_s)
            yield Replayed(number, decision, cluster, _difference(line, decision, chain))
            cluster.reserve(decision, line.now_s)
            continue
        else:
            _apply(cluster, line, number)
        chain = chained(chain, written)


def _difference(line: _Line, decision: Decision, chain: bytes) -> str:
    if line.state != chain.hex():
        return "the lines of state before it are not those of the recording"
    if line.winner != decision.winner:
        return f"winner was {line.winner or 'nobody'}, is {decision.winner or 'nobody'}"
    return "" if line.numbers == numbers_of(decision) else "the same winner by other numbers"


def _apply(cluster: Cluster, line: _Line, number: int) -> None:
    match line.kind:
        case "digest" if line.digest is not None:
            cluster.apply_digest(line.node, line.digest, line.now_s)
        case "confirm" if line.node in cluster.nodes:
            cluster.confirm_digest(line.node, line.now_s)
        case "node":
            cluster.add_node(line.node)
        case "node_gone":
            cluster.remove_node(line.node)
        case "inventory" if line.gpus is not None:
            cluster.set_inventory(line.node, line.gpus)
        case "sharing":
            cluster.set_sharing(line.node, line.sharing)
        case "pod" if line.pod is not None:
            cluster.set_pod(line.pod, line.now_s)
        case "gone":
            cluster.remove_pod(line.uid, line.now_s)
        case "capacity":
            cluster.set_capacity_type(line.node, line.capacity_type)
        case "forecast":
            cluster.set_forecast(line.pool, line.demand or {})
        case "expire":
            cluster.expire(line.now_s)
        case _:
            raise JournalError(f"line {number}: kind {line.kind[:40]!r} is not known, or lacks what it needs")
