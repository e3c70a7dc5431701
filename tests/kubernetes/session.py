"""One viewer's stream through the gateway: cameras in, frames out, for as long as a test lasts."""

from __future__ import annotations

import itertools
import json
import threading
import time
from contextlib import ExitStack, suppress
from typing import Any

from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

PAUSE_S = 0.3


class Session:
    """Turns its camera a few times a second; `frames_s` are the monotonic moments of its pictures."""

    def __init__(self, gateway_url: str, scene: str, pool: str, cameras: list[dict[str, Any]]) -> None:
        self.frames_s: list[float] = []
        self.ended = ""  # why, once it has ended by itself
        self._cameras = cameras
        url = f"{gateway_url.replace('http://', 'ws://')}/v1/stream?scene={scene}&pool={pool}"
        self._opened = ExitStack()
        self._socket = self._opened.enter_context(connect(url, proxy=None, compression=None))
        self._stopping = threading.Event()
        self._threads = [threading.Thread(target=work, daemon=True) for work in (self._look, self._read)]
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        self._stopping.set()
        self._opened.close()
        for thread in self._threads:
            thread.join(5.0)

    def longest_gap_s(self, since_s: float) -> float:
        """The longest time without a picture since a moment."""
        moments = [since_s, *(at_s for at_s in list(self.frames_s) if at_s >= since_s), time.monotonic()]
        return max(later - earlier for earlier, later in itertools.pairwise(moments))

    def _look(self) -> None:
        for number in itertools.count(1):
            if self._stopping.wait(PAUSE_S):
                return
            camera = self._cameras[number % len(self._cameras)]
            with suppress(ConnectionClosed):
                self._socket.send(json.dumps(camera | {"id": number}))

    def _read(self) -> None:
        try:
            while True:
                if isinstance(self._socket.recv(), bytes):
                    self.frames_s.append(time.monotonic())
        except ConnectionClosed as error:
            if not self._stopping.is_set():
                self.ended = str(error)
