"""Dashboards as Grafana's JSON, by its foundation SDK (a requirement of development alone)."""

from __future__ import annotations

from typing import Any

from grafana_foundation_sdk.builders import common, dashboard, prometheus, stat, timeseries
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import common as shown
from grafana_foundation_sdk.models.dashboard import DataSourceRef, VariableOption, VariableRefresh

from monitoring.board import Board, Panel
from monitoring.boards import BOARDS

SOURCE = DataSourceRef(type_val="prometheus", uid="${datasource}")
HEIGHT = 8
TARGETS = '{__name__=~"splatfleet_.+"}'


def dashboards() -> dict[str, str]:
    """The dashboards by file name, as JSON."""
    return {f"{board.name}.json": to_json(board) for board in BOARDS}


def to_json(board: Board) -> str:
    """One dashboard."""
    built = (
        dashboard.Dashboard(board.title)
        .uid(board.uid)
        .description(board.description)
        .tags(["splatfleet"])
        .readonly()
        .refresh("30s")
        .time("now-3h", "now")
        .timezone("browser")
        .with_variable(dashboard.DatasourceVariable("datasource").label("Data source").type("prometheus"))
        .with_variable(_variable("job", "Job", f"label_values({TARGETS}, job)"))
        .with_variable(_variable("instance", "Instance", 'label_values({job=~"$job"}, instance)'))
    )
    if board.by_pool:
        built = built.with_variable(_variable("pool", "Pool", 'label_values({job=~"$job", pool!=""}, pool)'))
    for title, panels in board.rows:
        built = built.with_row(dashboard.Row(title))
        for panel in panels:
            built = built.with_panel(_panel(panel))
    return str(JSONEncoder(sort_keys=True, indent=1).encode(built.build())) + "\n"


def _variable(name: str, label: str, query: str) -> Any:
    return (
        dashboard.QueryVariable(name)
        .label(label)
        .query(query)
        .datasource(SOURCE)
        .multi(True)
        .include_all(True)
        .all_value(".+")
        .current(VariableOption(text="All", value="$__all"))
        .refresh(VariableRefresh.ON_TIME_RANGE_CHANGED)
    )


def _panel(panel: Panel) -> Any:
    kind: Any = stat.Panel() if panel.kind == "number" else timeseries.Panel()
    kind = kind.title(panel.title).description(panel.description).unit(panel.unit).datasource(SOURCE)
    kind = kind.span(panel.span).height(HEIGHT // 2 if panel.kind == "number" else HEIGHT)
    if panel.kind == "number":
        kind = kind.reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))
    if panel.kind == "stacked":
        kind = kind.fill_opacity(40).stacking(common.StackingConfig().mode(shown.StackingMode.NORMAL))
    for place, query in enumerate(panel.queries):
        target = prometheus.Dataquery().expr(query.expression).legend_format(query.legend).datasource(SOURCE)
        kind = kind.with_target(target.ref_id(chr(ord("A") + place)))
    return kind
