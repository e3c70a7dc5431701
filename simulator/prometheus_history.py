"""Edge: the demand history of any Prometheus, by any query that answers requests a second."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from typing import Any

import numpy as np

from autoscaler.prometheus import MAX_POINTS, PrometheusError, within
from fleet.traffic import Floats, RateTrace


def read_history(url: str, query: str, end_s: float, days: float, bin_s: float, deadline_s: float = 20.0) -> RateTrace:
    """The last `days` until `end_s` (Unix time) in bins of `bin_s`, nan where Prometheus has nothing.

    Raises PrometheusError where it does not answer within the deadline, and ValueError where the answer is not one
    series of rates.
    """
    from prometheus_api_client import PrometheusConnect
    from urllib3.util.retry import Retry

    connect: Any = PrometheusConnect(url.rstrip("/"), retry=Retry(total=0), timeout=max(1, round(deadline_s)))
    bins = round(days * 86_400.0 / bin_s)
    start_s = math.floor(end_s / bin_s) * bin_s - bins * bin_s
    counts = np.full(bins, math.nan)

    def ask(first: int, last: int) -> list[Any]:
        moments = [datetime.fromtimestamp(start_s + index * bin_s, tz=UTC) for index in (first, last)]
        answer: list[Any] = connect.custom_query_range(query, *moments, f"{bin_s:g}s")
        return answer

    try:
        for first in range(1, bins + 1, MAX_POINTS):
            last = min(first + MAX_POINTS - 1, bins)
            series = within(deadline_s, lambda first=first, last=last: ask(first, last))  # type: ignore[misc]
            if len(series) > 1:
                raise ValueError(f"the query {query!r} answers {len(series)} series, expected one: wrap it in sum(…)")
            for time_s, text in series[0]["values"] if series else ():
                index, rate = round((float(time_s) - start_s) / bin_s) - 1, float(text)
                if rate < 0 or math.isinf(rate):
                    raise ValueError(f"the query {query!r} answers {text!r}, expected requests/s of 0 or more")
                if 0 <= index < bins:
                    counts[index] = rate * bin_s
    finally:
        connect._session.close()
    if not np.isfinite(counts).any():
        raise PrometheusError(
            f"no sample of {query!r} in the last {days:g} days: is the metric scraped, and does the window of a rate "
            "hold two scrapes and more ([5m] where a scrape comes every two minutes)?"
        )
    if _only_grows(counts[np.isfinite(counts)]):
        raise ValueError(f"the query {query!r} answers what only grows, a counter: ask for its rate, sum(rate(…[1m]))")
    return RateTrace(bin_s, trim(counts))


def _only_grows(known: Floats) -> bool:
    """Whether two hours and more of values are those of a counter, begun anew at times: no rate falls so seldom."""
    steps = np.diff(known)
    return steps.size >= 120 and 200 * np.count_nonzero(steps < 0) <= steps.size <= 4 * np.count_nonzero(steps > 0)


def trim(counts: Floats) -> Floats:
    """Without the bins before the first datum: a Prometheus that is younger than asked has no gap there."""
    return counts[int(np.flatnonzero(np.isfinite(counts))[0]) :]
