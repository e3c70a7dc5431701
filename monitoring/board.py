"""What a dashboard is made of, as plain values, and the PromQL that its panels share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from fleet.metrics import Metric

Kind = Literal["lines", "stacked", "number"]
TARGET = ('job=~"$job"', 'instance=~"$instance"')
RATE = "[$__rate_interval]"


@dataclass(frozen=True, slots=True)
class Query:
    """One PromQL expression and how its series are called."""

    expression: str
    legend: str


@dataclass(frozen=True, slots=True)
class Panel:
    """One panel; `unit` is Grafana's, `span` of 24 columns."""

    title: str
    description: str
    unit: str
    queries: tuple[Query, ...]
    kind: Kind = "lines"
    span: int = 8


@dataclass(frozen=True, slots=True)
class Board:
    """One dashboard: rows of panels. With `by_pool` it has a variable for the pool."""

    name: str
    title: str
    description: str
    rows: tuple[tuple[str, tuple[Panel, ...]], ...]
    by_pool: bool = False

    @property
    def uid(self) -> str:
        return f"splatfleet-{self.name}"

    @property
    def panels(self) -> tuple[Panel, ...]:
        return tuple(panel for _, panels in self.rows for panel in panels)


def select(metric: Metric | str, *matchers: str) -> str:
    """The series of the chosen targets, of the chosen pools where the metric has that label."""
    name = metric if isinstance(metric, str) else metric.name
    pool = ('pool=~"$pool"',) if isinstance(metric, Metric) and "pool" in metric.labels else ()
    return f"{name}{{{','.join((*TARGET, *pool, *matchers))}}}"


def select_any_pool(metric: Metric, *matchers: str) -> str:
    """The same on a dashboard without that variable."""
    return f"{metric.name}{{{','.join((*TARGET, *matchers))}}}"


def added(by: str, series: str) -> str:
    """Summed by labels; without any, over all."""
    return f"sum by ({by}) ({series})" if by else f"sum({series})"


def rate(by: str, series: str) -> str:
    return added(by, f"rate({series}{RATE})")


def quantile(q: float, by: str, metric: Metric, *matchers: str) -> str:
    """A quantile of a histogram by labels."""
    pool = ('pool=~"$pool"',) if "pool" in metric.labels else ()
    series = f"{metric.name}_bucket{{{','.join((*TARGET, *pool, *matchers))}}}"
    groups = f"{by}, le" if by else "le"
    return f"histogram_quantile({q:g}, {rate(groups, series)})"


def number(title: str, description: str, unit: str, expression: str) -> Panel:
    """A panel that is one figure."""
    return Panel(title, description, unit, (Query(expression, ""),), "number", 4)


def by_label(series: str, label: str) -> tuple[Query, ...]:
    """One query whose series are called by a label."""
    return (Query(series, "{{" + label + "}}"),)
