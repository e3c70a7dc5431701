"""The live view of a run: a screen on a terminal, else one line every few seconds that grep can read."""

from __future__ import annotations

import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from local_fleet import quantities
from local_fleet.screen import draw
from local_fleet.timeline import Moment, Timeline

LINE_EVERY_S = 5.0
REFRESH_EVERY_S = 0.5  # one drawing takes 5 to 9 ms of a core


class LiveView:
    """Shows a run while it happens; use it as a context manager. Safe to call from several threads."""

    def __init__(
        self,
        console: Console | None = None,
        line_every_s: float = LINE_EVERY_S,
        now_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self.console = console or Console()
        self._now_s = now_s
        self._line_every_s = line_every_s
        self._shown_s = float("-inf")
        self._latest: tuple[Timeline, Moment] | None = None
        self._live: Live | None = None

    def __enter__(self) -> Self:
        if self.console.is_terminal:
            # Drawn on update alone: a refresh thread would redraw what has not changed.
            self._live = Live(console=self.console, auto_refresh=False, vertical_overflow="crop")
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._draw()
            self._live.stop()
            self._live = None

    def update(self, timeline: Timeline, moment: Moment) -> None:
        """Show a moment; one that comes sooner than the screen or the log wants is kept for later."""
        self._latest = (timeline, moment)
        every_s = REFRESH_EVERY_S if self._live is not None else self._line_every_s
        now_s = self._now_s()
        if now_s - self._shown_s < every_s:
            return
        self._shown_s = now_s
        if self._live is not None:
            self._draw()
        else:
            self.console.print(moment_line(moment), markup=False, highlight=False, soft_wrap=True)

    def note(self, text: str) -> None:
        """One line of progress that stays: above the screen, or in the log."""
        self.console.print(Text(text, style="dim"), soft_wrap=True)

    def _draw(self) -> None:
        if self._live is None or self._latest is None:
            return
        width, height = self.console.size
        # A full last line or column would make the terminal scroll.
        lines = draw(*self._latest, width - 1, height - 1)
        self._live.update(Group(*lines), refresh=True)


def moment_line(moment: Moment) -> str:
    """One moment as `name=value` pairs; `-` is no data."""
    pairs = {
        "t": f"{moment.t_s:.0f}s",
        "demand": quantities.rate(moment.demand_per_s),
        "forecast": quantities.rate(moment.forecast_per_s),
        "capacity": quantities.rate(moment.capacity_per_s),
        "ready": str(moment.ready_replicas),
        "starting": str(moment.starting_replicas),
        "desired": str(moment.desired_replicas),
        "pending": quantities.number(moment.pending),
        "ratio": quantities.number(moment.queue_to_compute),
        "cpu": f"{moment.machine_cpu_ratio:.0%}",
        "decision": f"{moment.decision.replicas}/{moment.decision.reason}" if moment.decision else quantities.NO_DATA,
    }
    return " ".join(f"{name}={'-' if value == quantities.NO_DATA else value}" for name, value in pairs.items())
