"""What a pool's settings may be: bounds of single numbers, and what must fit together.

The upper bounds are far beyond what serves anybody; what is above them is a typing error that would take the memory
or the time of all pools.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from functools import cache
from operator import attrgetter
from typing import TYPE_CHECKING
from zoneinfo import available_timezones as _read_timezones

from fleet.traffic import DAY_S

if TYPE_CHECKING:
    from autoscaler.pool import Pool

MOST_REPLICAS = 100_000
YEAR_S = 366 * DAY_S
_ABOVE_0 = math.ulp(0.0)
_BELOW_1 = math.nextafter(1.0, 0.0)
_CLOCK = re.compile(r"([01]\d|2[0-3]):[0-5]\d")

Check = tuple[bool, str, object, str]  # good, path, value, what is expected

# Path -> lowest, highest, what is expected. A value that is not given passes.
RANGES: dict[str, tuple[float, float, str]] = {
    "min_replicas": (0, MOST_REPLICAS, f"0 or more, at most {MOST_REPLICAS}"),
    "max_replicas": (1, MOST_REPLICAS, f">= min_replicas and >= 1, at most {MOST_REPLICAS}"),
    "objective.max_queue_wait_s": (_ABOVE_0, DAY_S, "above 0, at most 86400"),
    "objective.violation_ratio": (_ABOVE_0, _BELOW_1, "0 to 1"),
    "triggers.recent_s": (_ABOVE_0, DAY_S, "seconds above 0, at most 86400"),
    "triggers.utilization": (0.01, 1.0, "above 0, at most 1 (and no less than 0.01)"),
    "triggers.pending_per_pod": (_ABOVE_0, 1e6, "above 0, at most 1000000"),
    "triggers.queue_to_compute": (0.0, 1e6, "0 or more, at most 1000000"),
    "behavior.down_window_s": (0.0, YEAR_S, "seconds, 0 or more, at most a year"),
    "behavior.settle_s": (0.0, YEAR_S, "seconds, 0 or more, at most a year"),
    "behavior.max_reversals": (0, 100_000, "0 or more, at most 100000"),
    "behavior.stale_after_s": (0.0, YEAR_S, "seconds, 0 or more, at most a year"),
    "behavior.blind_after_s": (0.0, YEAR_S, "seconds, 0 or more, at most a year"),
    "behavior.idle_s": (0.0, YEAR_S, "seconds, 0 or more, at most a year"),
    "behavior.wake_probability": (_ABOVE_0, 1.0, "above 0, at most 1"),
    "behavior.spend": (0.0, 1.0, "0 to 1"),
    "behavior.headroom": (0.0, 4.0, "0 to 4"),
    "behavior.max_margin": (1.0, 100.0, "1 or more, at most 100"),
    "forecast.quantile": (0.5, _BELOW_1, "0.5 to below 1"),
    "forecast.average_s": (_ABOVE_0, DAY_S, "seconds above 0, at most 86400"),
    "tick_s": (_ABOVE_0, DAY_S, "above 0, at most 86400"),
    "service_s": (_ABOVE_0, DAY_S, "above 0, at most 86400"),
    "service_cv": (0.0, 100.0, "0 or more, at most 100"),
    "startup_s": (0.0, DAY_S, "0 or more, at most 86400"),
    "startup_quantile": (_ABOVE_0, 1.0, "above 0, at most 1"),
    "node_startup_s": (_ABOVE_0, DAY_S, "above 0, at most 86400"),
    "pod_budget_bytes": (0, 2**63, "bytes, 0 or more"),
    "scenes_per_new_pod": (0, 100_000, "0 or more, at most 100000"),
    "warm_asks_per_tick": (0, 100_000, "0 or more, at most 100000"),
    "gpus_per_pod": (_ABOVE_0, 1000.0, "above 0, at most 1000"),
}

_READ = {path: attrgetter(path) for path in RANGES}  # a pool is checked in every tick where limits are open


@cache
def available_timezones() -> frozenset[str]:
    """Names of the zones that this machine knows; looking costs a walk over files, so it is done once."""
    return frozenset(_read_timezones())


def checks(pool: Pool) -> Iterator[Check]:
    """Everything that is asked of a pool's settings."""
    yield pool.name != "", "name", pool.name, "the pool's name"
    for path, (lowest, highest, valid) in RANGES.items():
        value = _READ[path](pool)
        yield value is None or lowest <= value <= highest, path, value, valid
    fits = pool.max_replicas >= pool.min_replicas
    yield fits, "max_replicas", pool.max_replicas, ">= min_replicas and >= 1"
    seasons = pool.forecast.season_s
    yield all(0 < s <= YEAR_S for s in seasons), "forecast.season_s", seasons, "seconds above 0, at most a year"
    yield from _calendars(pool)
    yield from _overrides(pool)
    yield from _capacity_types(pool)


def _calendars(pool: Pool) -> Iterator[Check]:
    for calendar in pool.calendars:
        path = f"calendars[{calendar.name}]"
        for name, clock in (("begin", calendar.begin), ("end", calendar.end)):
            yield bool(_CLOCK.fullmatch(clock)), f"{path}.{name}", clock, 'a time as "08:30"'
        zone = calendar.zone
        yield zone in available_timezones(), f"{path}.zone", zone, 'an IANA name as "Europe/Berlin"'
        days = calendar.weekdays
        yield all(0 <= day <= 6 for day in days), f"{path}.weekdays", days, "0 (Monday) to 6"
        yield from _limits(path, calendar.min_replicas, calendar.max_replicas)


def _overrides(pool: Pool) -> Iterator[Check]:
    for override in pool.overrides:
        ends = override.until_s > override.from_s and math.isfinite(override.until_s)
        yield ends, "overrides.until_s", override.until_s, "a time after from_s: an override always ends"
        yield from _limits("overrides", override.min_replicas, override.max_replicas)


def _limits(path: str, low: int | None, high: int | None) -> Iterator[Check]:
    fits = low is None or 0 <= low <= MOST_REPLICAS
    yield fits, f"{path}.min_replicas", low, f"0 or more, at most {MOST_REPLICAS}"
    fits = high is None or 1 <= high <= MOST_REPLICAS
    yield fits, f"{path}.max_replicas", high, f"1 or more, at most {MOST_REPLICAS}"


def _capacity_types(pool: Pool) -> Iterator[Check]:
    names = [kind.name for kind in pool.capacity_types]
    for kind in pool.capacity_types:
        path = f"capacity_types[{kind.name}]"
        yield kind.name != "" and names.count(kind.name) == 1, f"{path}.name", kind.name, "a name of its own"
        yield 0 <= kind.price_per_hour < math.inf, f"{path}.price_per_hour", kind.price_per_hour, "0 or more"
        bounded = kind.max_replicas is not None or not kind.reserved
        yield bounded, f"{path}.max_replicas", kind.max_replicas, "how many are reserved"
        yield (
            kind.max_replicas is None or kind.max_replicas >= 0,
            f"{path}.max_replicas",
            kind.max_replicas,
            "0 or more",
        )
