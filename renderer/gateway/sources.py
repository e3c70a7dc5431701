"""Who says which pods there are: a JSON file on one machine, a pod watch on Kubernetes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import msgspec
import structlog

from fleet.renderers import Renderer, RenderersFile
from kube.discovery import NodePods, RendererPods

DigestUrls = Callable[[], Mapping[str, str]]  # URL of the exporter by node, as known now
log = structlog.get_logger("gateway")


@dataclass(frozen=True, slots=True)
class WatchedPods:
    """Two pod watches, started: the renderers, and the pods that serve their nodes."""

    renderers: RendererPods
    nodes: NodePods


class RendererSource(Protocol):
    """Asked a few times a second."""

    def changed(self) -> tuple[Renderer, ...] | None:
        """All pods, where they differ from the last answer; None where nothing changed or nothing is known."""


class FileSource:
    """The renderers file; one that cannot be read leaves the last good one standing."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._stamp: tuple[int, int, int] | None = None
        self._file_is_bad = False

    def changed(self) -> tuple[Renderer, ...] | None:
        try:
            status = self._file.stat()
            stamp = (status.st_ino, status.st_mtime_ns, status.st_size)
            if stamp == self._stamp:
                return None
            found = msgspec.json.decode(self._file.read_bytes(), type=RenderersFile)
        except (OSError, msgspec.MsgspecError, UnicodeDecodeError) as error:
            if not self._file_is_bad:
                log.warning("renderers file not read, the last good one stays", file=str(self._file), error=str(error))
            self._file_is_bad = True
            return None
        self._stamp = stamp
        self._file_is_bad = False
        return found.renderers


class WatchSource:
    """A pod watch; before its first list nothing is known, and a silent server leaves the last rows standing."""

    def __init__(self, pods: RendererPods) -> None:
        self._pods = pods
        self._last: tuple[Renderer, ...] | None = None

    def changed(self) -> tuple[Renderer, ...] | None:
        rows = self._pods.rows() if self._pods.synced else None
        if rows is None or rows == self._last:
            return None
        self._last = rows
        return rows
