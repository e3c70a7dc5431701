"""For each alert: series on which it fires, with the labels it fires with, and series on which it is silent.

Series are promtool's notation, one sample a minute; `0+60x400` is a counter that grows by 60 a minute for 400 minutes.
"""

from __future__ import annotations

from dataclasses import dataclass, field

Series = dict[str, str]


@dataclass(frozen=True)
class Case:
    """`silent` names each situation: idle, stuck, reset, missing and what else must not wake anybody."""

    fires: Series
    labels: Series
    silent: dict[str, Series] = field(default_factory=dict)
    at: str = "6h30m"


def counter(name: str, per_min: float, samples: int = 400) -> Series:
    return {name: f"0+{per_min:g}x{samples}"}


def gauge(name: str, value: float, samples: int = 400) -> Series:
    return {name: f"{value:g}+0x{samples}"}


def waits(per_min: float, in_time: float, failed: float = 0) -> Series:
    served = {
        'splatfleet_gateway_wait_seconds_count{pool="web"}': f"0+{per_min:g}x400",
        'splatfleet_gateway_wait_seconds_bucket{pool="web",le="0.5"}': f"0+{in_time:g}x400",
    }
    return served | (counter('splatfleet_gateway_responses_total{pool="web",code="503"}', failed) if failed else {})


def decisions(**per_min: float) -> Series:
    return {
        f'splatfleet_autoscaler_decisions_total{{pool="web",reason="{reason}"}}': f"0+{value:g}x400"
        for reason, value in per_min.items()
    }


WEB = {"pool": "web"}
READY = 'splatfleet_gateway_pods{pool="web",state="ready"}'
PENDING = 'splatfleet_gateway_pending_requests{pool="web"}'
QUEUE = 'splatfleet_triton_queue_seconds_total{pool="web",pod="a",model="m"}'
COMPUTE = 'splatfleet_triton_compute_seconds_total{pool="web",pod="a",model="m"}'
TICKS = "splatfleet_autoscaler_tick_duration_seconds_count"
PLACED = 'splatfleet_extender_placements_total{tier="disk"}'
ASKED = 'splatfleet_extender_requests_total{verb="filter",outcome="ok"}'
OPEN = 'splatfleet_extender_requests_total{verb="filter",outcome="fail_open"}'
AGE = 'splatfleet_extender_node_digest_age_seconds{node="gpu-1"}'
SLOW = "splatfleet_extender_request_duration_seconds_bucket"
FREE = 'splatfleet_mig_slices{gpu_model="H100",profile="1g.10gb",state="free"}'
SICK = 'splatfleet_mig_slices{gpu_model="H100",profile="1g.10gb",state="unhealthy"}'
FAILED = 'splatfleet_scene_agent_fetches_total{outcome="failed"}'
MISSED = 'splatfleet_scene_agent_deadlines_total{outcome="missed"}'
MET = 'splatfleet_scene_agent_deadlines_total{outcome="met"}'
SOURCE = 'splatfleet_exporter_source_up{source="triton",target="10.0.0.1"}'
CAPACITY, LEFT = "splatfleet_scene_cache_capacity_bytes", "splatfleet_scene_cache_free_bytes"
SKILL = 'splatfleet_autoscaler_forecast_skill_ratio{pool="web"}'
COVERAGE = 'splatfleet_autoscaler_forecast_coverage_ratio{pool="web"}'
KEDA_EXPIRES = "splatfleet_autoscaler_keda_certificate_not_after_timestamp_seconds"
EXPIRES = "splatfleet_extender_certificate_not_after_timestamp_seconds"
TARGET = 'up{job="splatfleet-gateway",instance="a"}'

CASES: dict[str, Case] = {
    "SplatfleetBudgetBurnsFast": Case(
        waits(60, 45),
        WEB,
        {
            "a few late": waits(60, 59.8),
            "idle": waits(0, 0),
            "missing": {},
            "over for an hour": {
                'splatfleet_gateway_wait_seconds_count{pool="web"}': "0+60x400",
                'splatfleet_gateway_wait_seconds_bucket{pool="web",le="0.5"}': "0+0x300 60+60x100",
            },
        },
    ),
    "SplatfleetBudgetBurnsSlowly": Case(
        waits(60, 54), WEB, {"within the objective": waits(60, 59.5), "idle": waits(0, 0), "missing": {}}
    ),
    "SplatfleetNoPodReady": Case(
        gauge(PENDING, 3) | gauge(READY, 0),
        WEB,
        {"nobody waits": gauge(PENDING, 0) | gauge(READY, 0), "a pod": gauge(PENDING, 3) | gauge(READY, 1)},
    ),
    "SplatfleetQueueBuilding": Case(
        gauge(PENDING, 12) | gauge(READY, 2),
        WEB,
        {
            "short": gauge(PENDING, 6) | gauge(READY, 2),
            "no pod is another alert": gauge(PENDING, 12) | gauge(READY, 0),
            "a spike": {PENDING: "0x386 90x3 0x20", READY: "2x400"},
        },
    ),
    "SplatfleetQueueOutweighsCompute": Case(
        counter(QUEUE, 90) | counter(COMPUTE, 30),
        WEB,
        {
            "idle: no ratio, not NaN": counter(QUEUE, 0) | counter(COMPUTE, 0),
            "stuck: queued and nothing computed is not +Inf": counter(QUEUE, 30) | counter(COMPUTE, 0),
            "reset": {QUEUE: "0+3x380 0+3x20", COMPUTE: "0+30x380 0+30x20"},
            "missing": counter(QUEUE, 90),
        },
    ),
    "SplatfleetAutoscalerSilent": Case(
        counter(TICKS, 0), {}, {"ticking": counter(TICKS, 4), "one of two": counter(TICKS + '{pod="b"}', 4)}
    ),
    "SplatfleetDemandUnknown": Case(
        decisions(no_data=3, steady=1), WEB, {"once": decisions(no_data=0.2, steady=4), "missing": {}}
    ),
    "SplatfleetActFails": Case(decisions(act_failed=1, forecast=3), WEB, {"never": decisions(forecast=3)}),
    "SplatfleetAtMaximum": Case(decisions(at_max=3, steady=1), WEB, {"seldom": decisions(at_max=1, steady=3)}),
    "SplatfleetStockOut": Case(decisions(stock_out=4), WEB, {"never": decisions(steady=4)}),
    "SplatfleetForecastDistrusted": Case(gauge(SKILL, 1.2), WEB, {"trusted": gauge(SKILL, 0.7), "missing": {}}),
    "SplatfleetForecastCoverageOff": Case(gauge(COVERAGE, 0.7), WEB, {"as meant": gauge(COVERAGE, 0.9), "missing": {}}),
    "SplatfleetExtenderSilent": Case(
        counter(PLACED, 1) | counter(ASKED, 0),
        {},
        {
            "asked": counter(PLACED, 1) | counter(ASKED, 1),
            "nothing bound": counter(PLACED, 0) | counter(ASKED, 0),
            "missing": {},
        },
    ),
    "SplatfleetExtenderAbsent": Case({}, {}, {"there": gauge("splatfleet_extender_reservations", 0)}),
    "SplatfleetExtenderFailsOpen": Case(
        counter(ASKED, 10) | counter(OPEN, 5), {}, {"rarely": counter(ASKED, 100) | counter(OPEN, 1), "idle": {}}
    ),
    "SplatfleetExtenderSlow": Case(
        counter(SLOW + '{verb="filter",le="0.25"}', 5) | counter(SLOW + '{verb="filter",le="+Inf"}', 10)
        | counter(SLOW + '{verb="filter",le="0.5"}', 10),
        {"verb": "filter"},
        {
            "fast": counter(SLOW + '{verb="filter",le="0.05"}', 10) | counter(SLOW + '{verb="filter",le="+Inf"}', 10),
            "idle: not a number": counter(SLOW + '{verb="filter",le="0.05"}', 0)
            | counter(SLOW + '{verb="filter",le="+Inf"}', 0),
        },
    ),
    "SplatfleetReservationsLeak": Case(
        counter("splatfleet_extender_reservations_expired_total", 1),
        {},
        {"a few": counter("splatfleet_extender_reservations_expired_total", 0.1)},
    ),
    "SplatfleetNodeDigestStale": Case(
        gauge(AGE, 100),
        {"node": "gpu-1"},
        {"fresh": gauge(AGE, 4), "one of two extenders hears it": gauge(AGE, 100) | gauge(AGE[:-1] + ',pod="b"}', 4)},
    ),
    "SplatfleetSlicesStranded": Case(
        gauge(FREE, 3) | decisions(stock_out=4),
        {},
        {
            "nobody waits": gauge(FREE, 3) | decisions(steady=4),
            "all are taken": gauge(FREE, 0) | decisions(stock_out=4),
            "no GPU is known": decisions(stock_out=4),
        },
    ),
    "SplatfleetSlicesUnhealthy": Case(
        gauge(SICK, 1), {"profile": "1g.10gb", "state": "unhealthy"}, {"none": gauge(SICK, 0), "others": gauge(FREE, 4)}
    ),
    "SplatfleetCertificateExpires": Case(
        gauge(EXPIRES, 23_400 + 86_400) | gauge(KEDA_EXPIRES, 30 * 86_400),
        {},
        {"next month": gauge(EXPIRES, 30 * 86_400) | gauge(KEDA_EXPIRES, 30 * 86_400), "no TLS": {}},
    ),
    "SplatfleetSceneLoadsFail": Case(
        counter(FAILED, 0.5), {}, {"one": {FAILED: "0x385 1x20"}, "none": counter(FAILED, 0), "missing": {}}
    ),
    "SplatfleetSceneDeadlinesMissed": Case(
        counter(MISSED, 1) | counter(MET, 1),
        {},
        {"few": counter(MISSED, 0.1) | counter(MET, 2), "one of one": {MISSED: "0x385 1x20", MET: "0x400"}},
    ),
    "SplatfleetSceneCacheFull": Case(
        gauge(CAPACITY, 100) | gauge(LEFT, 2), {}, {"room": gauge(CAPACITY, 100) | gauge(LEFT, 40), "no capacity": {}}
    ),
    "SplatfleetSourceDown": Case(
        gauge(SOURCE, 0),
        {"source": "triton", "target": "10.0.0.1"},
        {"up": gauge(SOURCE, 1), "a blink": {SOURCE: "1x386 0x3 1x20"}, "gone": {SOURCE: "0x100 stale"}},
    ),
    "SplatfleetTargetDown": Case(
        gauge(TARGET, 0),
        {"job": "splatfleet-gateway", "instance": "a"},
        {"up": gauge(TARGET, 1), "somebody else's": gauge('up{job="other"}', 0)},
    ),
}  # fmt: skip
