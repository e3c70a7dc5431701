"""Every series that our recording rules write: its name and the PromQL that makes it.

`level:metric:operations`, as Prometheus' guide has it. Sums come before divisions, so that a level above can be had
by summing again; a ratio is absent where nothing was counted. The autoscaler and the dashboards read these names.
"""

from __future__ import annotations

from dataclasses import dataclass

from fleet import metrics


@dataclass(frozen=True, slots=True)
class Recording:
    """One recorded series."""

    name: str
    expression: str
    help: str


RECORDINGS: dict[str, Recording] = {}

LATE_S = 0.5  # a request that waited longer is late; a bucket of the waiting-time histogram
VIOLATION_RATIO = 0.01  # the objective: at most this share of the requests is late or fails
BURN_WINDOWS = ("30m", "1h", "6h", "1d", "3d")  # of the error budget, beside the 5 minutes of the rates

_FAILED = f'{metrics.GATEWAY_RESPONSES.name}{{code=~"5.."}}'
_WAITS = metrics.GATEWAY_WAIT_SECONDS.name


def _recording(name: str, expression: str, help: str) -> Recording:
    if name in RECORDINGS:
        raise ValueError(f"recording {name} is declared twice")
    RECORDINGS[name] = Recording(name, expression, help)
    return RECORDINGS[name]


def _rate(by: str, metric: metrics.Metric, window: str = "5m") -> str:
    return f"sum by ({by}) (rate({metric.name}[{window}]))"


# Demand.
ARRIVALS_1M = _recording(
    "pool:splatfleet_gateway_requests:increase1m",
    f"sum by (pool) (increase({metrics.GATEWAY_REQUESTS.name}[1m]))",
    "Arrivals of the last minute by pool: the autoscaler's history (`--recorded`).",
)
ARRIVALS_RATE = _recording(
    "pool:splatfleet_gateway_requests:rate5m",
    _rate("pool", metrics.GATEWAY_REQUESTS),
    "Arrivals a second by pool.",
)
SCENE_ARRIVALS_RATE = _recording(
    "pool_scene:splatfleet_gateway_requests:rate5m",
    _rate("pool, scene", metrics.GATEWAY_REQUESTS),
    "Arrivals a second by pool and scene.",
)

# Queue and compute.
PENDING = _recording(
    "pool:splatfleet_pending_requests:sum",
    f"sum by (pool) ({metrics.GATEWAY_PENDING.name} or {metrics.TRITON_PENDING.name})",
    "Requests that wait, in gateways and in Triton.",
)
QUEUE_RATE = _recording(
    "pool:splatfleet_triton_queue_seconds:rate5m",
    _rate("pool", metrics.TRITON_QUEUE_SECONDS),
    "Seconds queued in Triton a second, by pool.",
)
COMPUTE_RATE = _recording(
    "pool:splatfleet_triton_compute_seconds:rate5m",
    _rate("pool", metrics.TRITON_COMPUTE_SECONDS),
    "Seconds computed a second, by pool: the number of pods that were busy.",
)
QUEUE_TO_COMPUTE = _recording(
    "pool:splatfleet_queue_seconds_per_compute_second:ratio_rate5m",
    f"{QUEUE_RATE.name} / ({COMPUTE_RATE.name} > 0)",
    "Queue seconds over compute seconds; absent where nothing was computed.",
)
PODS_READY = _recording(
    "pool:splatfleet_gateway_pods_ready:max",
    f'max by (pool) ({metrics.GATEWAY_PODS.name}{{state="ready"}})',
    "Ready pods by pool: every gateway counts all of them, so the largest count, never a sum.",
)
BUSY = _recording(
    "pool:splatfleet_busy_pods:ratio_rate5m",
    f"{COMPUTE_RATE.name} / ({PODS_READY.name} > 0)",
    "Share of the ready pods that computed.",
)

# The objective: requests that waited too long or failed, over all that were to be answered.
ANSWERS_RATE = _recording(
    "pool:splatfleet_gateway_answers:rate5m",
    f"sum by (pool) (rate({_WAITS}_count[5m]) or rate({_FAILED}[5m]))",
    "Frames and failures a second, by pool; what the client did wrong (4xx) is in neither.",
)
IN_TIME_RATE = _recording(
    "pool:splatfleet_gateway_frames_in_time:rate5m",
    f'sum by (pool) (rate({_WAITS}_bucket{{le="{LATE_S}"}}[5m])) or 0 * {ANSWERS_RATE.name}',
    f"Frames a second that waited at most {LATE_S} s; 0 where all failed.",
)
VIOLATIONS_5M = _recording(
    "pool:splatfleet_violations:ratio_rate5m",
    f"1 - {IN_TIME_RATE.name} / ({ANSWERS_RATE.name} > 0)",
    "Share of the requests that were late or failed.",
)
VIOLATIONS: dict[str, Recording] = {"5m": VIOLATIONS_5M} | {
    window: _recording(
        f"pool:splatfleet_violations:ratio_rate{window}",
        f"1 - sum_over_time({IN_TIME_RATE.name}[{window}]) / (sum_over_time({ANSWERS_RATE.name}[{window}]) > 0)",
        f"Share of the requests of the last {window} that were late or failed.",
    )
    for window in BURN_WINDOWS
}

# Scenes and slices.
CACHE_USED = _recording(
    "instance:splatfleet_scene_cache_used:ratio",
    f"1 - {metrics.SCENE_CACHE_FREE.name} / ({metrics.SCENE_CACHE_CAPACITY.name} > 0)",
    "Share of a node's scene store that is taken.",
)
SLICES = _recording(
    "profile_state:splatfleet_mig_slices:sum",
    f"sum by (profile, state) ({metrics.MIG_SLICES.name})",
    "MIG slices of the cluster by profile and state.",
)
