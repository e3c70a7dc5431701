"""What a list-watch has seen, and what each answer changes of it; an object that cannot be read is skipped."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Generic, Literal, TypeVar

import msgspec

from kube.objects import Object

T = TypeVar("T", bound=Object)
Kind = Literal["added", "modified", "deleted"]


@dataclass(frozen=True, slots=True)
class Change(Generic[T]):
    """`object` is as it is now, or as it was last; `before` is None for an added one."""

    kind: Kind
    object: T
    before: T | None


@dataclass(frozen=True, slots=True)
class Applied(Generic[T]):
    """What one event did: its changes, its resource version, and whether its object could not be read."""

    changes: list[Change[T]]
    version: str
    skipped: int = 0


class Store(Generic[T]):
    """Objects by `namespace/name`; one writes, any thread reads.

    A malformed object keeps its last readable state; one that never had any is absent.
    """

    def __init__(self, kind: type[T]) -> None:
        self._decoder = msgspec.json.Decoder(kind)
        self._by_key: dict[str, T] = {}

    def items(self) -> list[T]:
        return list(self._by_key.values())  # in one step, as no reader takes a lock

    def get(self, key: str) -> T | None:
        return self._by_key.get(key)

    def replace(self, raws: Iterable[bytes]) -> tuple[list[Change[T]], int]:
        """Take a whole list: the changes against what was known, and how many objects could not be read."""
        found: dict[str, T] = {}
        kept: dict[str, T] = {}
        skipped = 0
        for raw in raws:
            try:
                read = self._decoder.decode(raw)
                found[read.metadata.key] = read
            except msgspec.MsgspecError:
                skipped += 1
                known = _metadata(raw)
                if known is not None and (before := self._by_key.get(known.metadata.key)) is not None:
                    kept[known.metadata.key] = before
        changes = [
            Change("deleted", before, before)
            for key, before in self._by_key.items()
            # The same name with another UID is another object: its predecessor was deleted in between.
            if key not in kept and (key not in found or found[key].metadata.uid != before.metadata.uid)
        ]
        for key, read in found.items():
            before = self._by_key.get(key)
            if before is None or before.metadata.uid != read.metadata.uid:
                changes.append(Change("added", read, None))
            elif before.metadata.resource_version != read.metadata.resource_version:
                changes.append(Change("modified", read, before))
        self._by_key = found | kept
        return changes, skipped

    def apply(self, event: str, raw: bytes) -> Applied[T]:
        """Take one event of a watch: ADDED, MODIFIED, DELETED or BOOKMARK; another kind changes nothing."""
        if event in ("ADDED", "MODIFIED"):
            try:
                read = self._decoder.decode(raw)
            except msgspec.MsgspecError:
                known = _metadata(raw)
                return Applied([], known.metadata.resource_version if known is not None else "", skipped=1)
            key = read.metadata.key
            before = self._by_key.get(key)
            self._by_key[key] = read
            change: Change[T] = Change("modified" if before else "added", read, before)
            return Applied([change], read.metadata.resource_version)
        known = _metadata(raw)
        if known is None:
            return Applied([], "", skipped=1)
        metadata = known.metadata
        gone = self._by_key.pop(metadata.key, None) if event == "DELETED" else None
        return Applied([Change("deleted", gone, gone)] if gone is not None else [], metadata.resource_version)


class _Known(msgspec.Struct):
    metadata: _Metadata


class _Metadata(msgspec.Struct, rename="camel"):
    """The least that says which object it is; a bookmark has the version alone."""

    name: str = ""
    namespace: str = ""
    resource_version: str = ""

    @property
    def key(self) -> str:
        return f"{self.namespace}/{self.name}" if self.namespace else self.name


def _metadata(raw: bytes) -> _Known | None:
    try:
        return _decode_known(raw)
    except msgspec.MsgspecError:
        return None


_decode_known = msgspec.json.Decoder(_Known).decode
