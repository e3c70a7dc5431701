"""The alerts: what pages, what tickets, and by which expression. docs/runbooks.md has a section for each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from fleet import metrics as m
from fleet import recordings as r

RUNBOOKS_URL = "https://splatfleet.io/docs/runbooks"  # the chart replaces it (monitoring.runbooksUrl)

Severity = Literal["critical", "warning", "info"]
Dashboard = Literal["fleet", "pools", "placement", "scene-cache", "service", "cost"]

FAST_BURN = 14.4  # spends 2 % of a month's error budget in an hour
SLOW_BURN = 6.0  # spends 5 % of it in six hours
DIGEST_STALE_S = 60.0  # twelve polls of the extender
EXTENDER_SLOW_S = 0.25  # half of kube-scheduler's httpTimeout
DAY_S = 86_400


@dataclass(frozen=True, slots=True)
class Alert:
    """One alert; `lasts` is Prometheus' `for`, `part` names its group."""

    name: str
    part: str
    severity: Severity
    dashboard: Dashboard
    summary: str
    description: str
    expression: str
    lasts: str = ""


def _decided(reasons: str, window: str = "10m") -> str:
    """Share of the last decisions of a pool that had one of these reasons."""
    name = m.AUTOSCALER_DECISIONS.name
    return (
        f'sum by (pool) (rate({name}{{reason=~"{reasons}"}}[{window}])) / (sum by (pool) (rate({name}[{window}])) > 0)'
    )


def _burn(factor: float, short: str, long: str) -> str:
    threshold = f"{factor * r.VIOLATION_RATIO:g}"
    return f"{r.VIOLATIONS[long].name} > {threshold} and {r.VIOLATIONS[short].name} > {threshold}"


_ASKED = f'{m.EXTENDER_REQUESTS.name}{{verb=~"filter|prioritize"}}'

_SERVICE = (
    Alert(
        "SplatfleetBudgetBurnsFast", "service", "critical", "service",
        "Requests wait too long or fail, at a rate that pages.",
        "{{ $value | humanizePercentage }} of the requests of pool {{ $labels.pool }} were late or failed.",
        _burn(FAST_BURN, "5m", "1h"), "2m",
    ),
    Alert(
        "SplatfleetBudgetBurnsSlowly", "service", "warning", "service",
        "Requests wait too long or fail, at a rate that spends the month's budget.",
        "{{ $value | humanizePercentage }} of the requests of pool {{ $labels.pool }} were late or failed.",
        _burn(SLOW_BURN, "30m", "6h"), "15m",
    ),
    Alert(
        "SplatfleetNoPodReady", "service", "critical", "pools",
        "Requests wait and no pod is ready.",
        "{{ $value }} requests of pool {{ $labels.pool }} wait; the gateways know no ready pod of it.",
        f"{r.PENDING.name} > 0 unless on (pool) {r.PODS_READY.name} > 0", "5m",
    ),
    Alert(
        "SplatfleetQueueBuilding", "service", "warning", "pools",
        "More requests wait than the ready pods can take soon.",
        "{{ $value }} requests wait for each ready pod of pool {{ $labels.pool }}.",
        f"{r.PENDING.name} / ({r.PODS_READY.name} > 0) > 4", "5m",
    ),
    Alert(
        "SplatfleetQueueOutweighsCompute", "service", "warning", "pools",
        "Requests wait longer in Triton than they are computed.",
        "Pool {{ $labels.pool }} queues {{ $value }} s for each second that it computes.",
        f"{r.QUEUE_TO_COMPUTE.name} > 1", "10m",
    ),
)  # fmt: skip

_AUTOSCALER = (
    Alert(
        "SplatfleetAutoscalerSilent", "autoscaler", "critical", "fleet",
        "The autoscaler decides nothing.",
        "No tick of any autoscaler in the last ten minutes: replicas stay where they are.",
        f"sum(rate({m.AUTOSCALER_TICK_SECONDS.name}_count[10m])) == 0 "
        f"or absent({m.AUTOSCALER_TICK_SECONDS.name}_count)", "5m",
    ),
    Alert(
        "SplatfleetDemandUnknown", "autoscaler", "warning", "fleet",
        "The autoscaler has no demand to decide by and holds.",
        "{{ $value | humanizePercentage }} of the decisions for pool {{ $labels.pool }} were made without fresh data.",
        f"{_decided('no_data|stale|blind|observe_failed')} > 0.5", "10m",
    ),
    Alert(
        "SplatfleetActFails", "autoscaler", "warning", "fleet",
        "Decisions cannot be carried out.",
        "{{ $value | humanizePercentage }} of the decisions for pool {{ $labels.pool }} could not be carried out.",
        f"{_decided('act_failed')} > 0.1", "10m",
    ),
    Alert(
        "SplatfleetAtMaximum", "autoscaler", "warning", "pools",
        "A pool needs more replicas than it may have.",
        "Pool {{ $labels.pool }} has been at its maximum in {{ $value | humanizePercentage }} of the decisions.",
        f"{_decided('at_max')} > 0.5", "15m",
    ),
    Alert(
        "SplatfleetStockOut", "autoscaler", "warning", "placement",
        "Pods that were asked for get no machine.",
        "Pool {{ $labels.pool }} waits for machines in {{ $value | humanizePercentage }} of the decisions.",
        f"{_decided('stock_out')} > 0.5", "10m",
    ),
    Alert(
        "SplatfleetForecastDistrusted", "autoscaler", "info", "fleet",
        "The forecast is no better than persistence, which stands in for it.",
        "The forecast's loss for pool {{ $labels.pool }} is {{ $value }} times that of persistence.",
        f"{m.AUTOSCALER_SKILL.name} >= 1", "2h",
    ),
    Alert(
        "SplatfleetForecastCoverageOff", "autoscaler", "warning", "fleet",
        "Demand is above the forecast's band more often than it should be.",
        "Only {{ $value | humanizePercentage }} of the forecasts for pool {{ $labels.pool }} held.",
        f"{m.AUTOSCALER_COVERAGE.name} < 0.8", "1h",
    ),
)  # fmt: skip

_PLACEMENT = (
    Alert(
        "SplatfleetExtenderSilent", "placement", "warning", "placement",
        "Pods are bound and kube-scheduler does not ask the extender.",
        "{{ $value }} pods of ours were bound in a quarter of an hour and the extender was not asked once.",
        f"sum(increase({m.EXTENDER_PLACEMENTS.name}[15m])) > 0.5 "
        f"unless sum(increase({_ASKED}[30m])) > 0", "5m",
    ),
    Alert(
        "SplatfleetExtenderAbsent", "placement", "warning", "placement",
        "No extender is scraped: pods are placed as if it did not exist.",
        "Prometheus has no series of the extender.",
        f"absent({m.EXTENDER_RESERVATIONS.name})", "10m",
    ),
    Alert(
        "SplatfleetExtenderFailsOpen", "placement", "warning", "placement",
        "The extender answers kube-scheduler without an opinion.",
        "{{ $value | humanizePercentage }} of the calls were answered without placing anything.",
        f'sum(rate({m.EXTENDER_REQUESTS.name}{{outcome!="ok"}}[10m])) / '
        f"(sum(rate({m.EXTENDER_REQUESTS.name}[10m])) > 0) > 0.05", "10m",
    ),
    Alert(
        "SplatfleetExtenderSlow", "placement", "warning", "placement",
        "The extender's answers come close to kube-scheduler's timeout.",
        "99 % of the {{ $labels.verb }} calls take up to {{ $value }} s.",
        f"histogram_quantile(0.99, sum by (verb, le) (rate({m.EXTENDER_SECONDS.name}_bucket[10m]))) > "
        f"{EXTENDER_SLOW_S}", "10m",
    ),
    Alert(
        "SplatfleetReservationsLeak", "placement", "info", "placement",
        "Pods that were placed are never heard of again.",
        "{{ $value }} reservations ran out within an hour.",
        f"sum(increase({m.EXTENDER_RESERVATION_LEAKS.name}[1h])) > 10",
    ),
    Alert(
        "SplatfleetNodeDigestStale", "placement", "warning", "placement",
        "The extender has not heard from a node's exporter.",
        "The digest of node {{ $labels.node }} is {{ $value }} s old; the node is priced like a cold one.",
        f"min by (node) ({m.EXTENDER_DIGEST_AGE.name}) > {DIGEST_STALE_S:g}", "5m",
    ),
    Alert(
        "SplatfleetSlicesStranded", "placement", "warning", "placement",
        "Slices are free while pods get no machine.",
        "{{ $value }} slices are free although pods wait for a machine: other profiles, unready nodes or taints.",
        f'sum(profile_state:splatfleet_mig_slices:sum{{state="free"}}) > 0 and on () '
        f"max({_decided('stock_out')}) > 0.5", "15m",
    ),
    Alert(
        "SplatfleetSlicesUnhealthy", "placement", "warning", "placement",
        "MIG slices are unhealthy.",
        "{{ $value }} slices of profile {{ $labels.profile }} are unhealthy.",
        f'{r.SLICES.name}{{state="unhealthy"}} > 0', "10m",
    ),
    Alert(
        "SplatfleetCertificateExpires", "placement", "warning", "placement",
        "A certificate is about to expire.",
        "The certificate of {{ $labels.instance }} expires in {{ $value | humanizeDuration }}.",
        f"({m.EXTENDER_CERTIFICATE_NOT_AFTER.name} or {m.KEDA_CERTIFICATE_NOT_AFTER.name}) - time() < {7 * DAY_S}",
        "1h",
    ),
)  # fmt: skip

_SCENES = (
    Alert(
        "SplatfleetSceneLoadsFail", "scenes", "warning", "scene-cache",
        "Scenes cannot be loaded.",
        "{{ $value }} loads or fetches of scenes failed in a quarter of an hour.",
        f'sum(increase({m.AGENT_FETCHES.name}{{outcome="failed"}}[15m]) '
        f'or increase({m.GATEWAY_REFUSALS.name}{{error="scene_failed"}}[15m])) > 2', "5m",
    ),
    Alert(
        "SplatfleetSceneDeadlinesMissed", "scenes", "info", "scene-cache",
        "Scenes are on disk later than they were asked for.",
        "{{ $value | humanizePercentage }} of the deadlines of the last hour were missed.",
        f'sum(increase({m.AGENT_DEADLINES.name}{{outcome="missed"}}[1h])) / '
        f"(sum(increase({m.AGENT_DEADLINES.name}[1h])) > 5) > 0.2", "15m",
    ),
    Alert(
        "SplatfleetSceneCacheFull", "scenes", "info", "scene-cache",
        "A node's scene store is full and thrashes.",
        "The scene store of {{ $labels.instance }} is {{ $value | humanizePercentage }} full.",
        f"{r.CACHE_USED.name} > 0.95", "30m",
    ),
    Alert(
        "SplatfleetSourceDown", "scenes", "warning", "scene-cache",
        "An exporter cannot read one of its sources.",
        "Source {{ $labels.source }} ({{ $labels.target }}) of {{ $labels.instance }} does not answer.",
        f"{m.SOURCE_UP.name} == 0", "10m",
    ),
    Alert(
        "SplatfleetTargetDown", "scenes", "warning", "fleet",
        "Prometheus cannot scrape a part of Splatfleet.",
        "{{ $labels.job }} at {{ $labels.instance }} does not answer.",
        'up{job=~".*splatfleet.*"} == 0', "10m",
    ),
)  # fmt: skip

ALERTS: tuple[Alert, ...] = (*_SERVICE, *_AUTOSCALER, *_PLACEMENT, *_SCENES)
