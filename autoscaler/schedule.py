"""Calendars, overrides and pauses: what limits hold at a moment. All of them end by themselves."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

from autoscaler.pool import Calendar, Override, Pool

OPEN_END_S = 10 * 365 * 86_400.0


@dataclass(frozen=True, slots=True)
class Limits:
    """The pool as it is to be run now, and what made it so."""

    pool: Pool
    paused: bool = False
    hold_scale_down: bool = False  # nothing is taken away
    note: str = ""


def limits_at(pool: Pool, now_s: float) -> Limits:
    """Calendars raise the minimum or lower the maximum while they are open; an override says what these are.

    Where the minimum of one is above the maximum of the other, it is the maximum as well.
    """
    low, high, notes = pool.min_replicas, pool.max_replicas, []
    for calendar in pool.calendars:
        if is_open(calendar, now_s):
            low = max(low, calendar.min_replicas) if calendar.min_replicas is not None else low
            high = min(high, calendar.max_replicas) if calendar.max_replicas is not None else high
            notes.append(f"calendar {calendar.name}")
    paused = hold_scale_down = False
    for override in pool.overrides:
        if override.from_s <= now_s < override.until_s:
            low = override.min_replicas if override.min_replicas is not None else low
            high = override.max_replicas if override.max_replicas is not None else high
            paused, hold_scale_down = paused or override.paused, hold_scale_down or override.hold_scale_down
            notes.append(_line(override, now_s))
    if not notes:
        return Limits(pool)
    # Limits of different hands may cross: what keeps pods serving wins.
    high = max(high, low, 1)
    return Limits(replace(pool, min_replicas=low, max_replicas=high), paused, hold_scale_down, ", ".join(notes))


def is_open(calendar: Calendar, now_s: float) -> bool:
    """Whether the calendar's window holds now, by the wall clock of its zone; a window may pass midnight."""
    local = datetime.fromtimestamp(now_s, ZoneInfo(calendar.zone))
    minute = local.hour * 60 + local.minute
    begin, end = minutes(calendar.begin), minutes(calendar.end)
    day = local.weekday()
    if begin < end:
        return _on(calendar, day) and begin <= minute < end
    yesterday = (local - timedelta(days=1)).weekday()
    return (_on(calendar, day) and minute >= begin) or (_on(calendar, yesterday) and minute < end)


def minutes(clock: str) -> int:
    """Minutes since midnight of "HH:MM"."""
    hour, _, minute = clock.partition(":")
    return int(hour) * 60 + int(minute)


def _on(calendar: Calendar, day: int) -> bool:
    return not calendar.weekdays or day in calendar.weekdays


def _span(span_s: float) -> str:
    for unit_s, unit in ((86_400.0, "days"), (3600.0, "h")):
        if span_s >= 2 * unit_s:
            return f"{span_s / unit_s:.3g} {unit}"
    return f"{span_s:.0f} s"


def _line(override: Override, now_s: float) -> str:
    what = "paused" if override.paused else "override"
    left_s = override.until_s - now_s
    ends = f" for {_span(left_s)} more" if left_s < OPEN_END_S else ""  # one that ends with what asked for it
    return f"{what}{ends}" + (f" ({override.note})" if override.note else "")
