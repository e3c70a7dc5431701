"""Asks on disk, so that an agent that ends and starts again goes on with them; deadlines as Unix seconds there."""

from __future__ import annotations

import time
from collections.abc import Iterable
from pathlib import Path

from fleet.scene import SceneIdError, parse_scene_id
from renderer.ask_queue import Ask
from renderer.store_files import read_json, write_json


class KeptAsks:
    """The file of a store's open asks. Times given and taken are of the monotonic clock."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._kept: list[dict[str, object]] = []

    def keep(self, asks: Iterable[Ask]) -> None:
        """Write what is open now; nothing is written where that is what the file says. Raises OSError."""
        ahead_s = time.time() - time.monotonic()
        rows: list[dict[str, object]] = [
            {
                "scene": ask.scene,
                "priority": ask.priority,
                "deadline_unix_s": round(ask.deadline_s + ahead_s, 1),
                "asked_unix_s": round(ask.asked_s + ahead_s, 1),
            }
            for ask in sorted(asks, key=lambda ask: ask.scene)
        ]
        if rows != self._kept:
            write_json(self._path, {"asks": rows})
            self._kept = rows

    def load(self) -> list[Ask]:
        """What was open when the last agent of this store ended; a row that makes no sense is left out."""
        behind_s = time.monotonic() - time.time()
        asks = []
        rows = (read_json(self._path) or {}).get("asks")
        for row in rows if isinstance(rows, list) else ():
            try:
                deadline_s, asked_s = (float(row[name]) + behind_s for name in ("deadline_unix_s", "asked_unix_s"))
                asks.append(Ask(parse_scene_id(row["scene"]), int(row["priority"]), deadline_s, asked_s))
            except (KeyError, TypeError, ValueError, SceneIdError):
                continue
        return asks
