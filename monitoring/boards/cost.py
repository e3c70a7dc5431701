"""Pod-hours, and whom they were for."""

from __future__ import annotations

from fleet import metrics as m
from monitoring.board import Board, Panel, Query, by_label, rate, select

ANSWERED = 'code="200"'

_PODS = f"max by (pool) ({select(m.AUTOSCALER_CURRENT)})"
_MONEY = rate("use, pool_namespace", select(m.COST_MONEY))
_ARRIVALS = rate("pool, scene", select(m.GATEWAY_REQUESTS))

COST = Board(
    "cost",
    "Splatfleet / Cost",
    "Pod-hours (times the GPUs of a pod: GPU-hours), and who they were for.",
    (
        (
            "Pod-hours",
            (
                Panel(
                    "Pods", "Replicas by pool: the area is pod-hours.", "short", by_label(_PODS, "pool"), "stacked", 12
                ),
                Panel(
                    "Pod-hours of the range",
                    "Mean replicas over the range times its hours.",
                    "h",
                    by_label(
                        f"max by (pool) (avg_over_time({select(m.AUTOSCALER_CURRENT)}[$__range])) * $__range_s / 3600",
                        "pool",
                    ),
                    span=12,
                ),
            ),
        ),
        (
            "Idle",
            (
                Panel(
                    "Idle pods",
                    "Replicas less those that computed.",
                    "short",
                    by_label(f"{_PODS} - {rate('pool', select(m.TRITON_COMPUTE_SECONDS))}", "pool"),
                ),
                Panel(
                    "Idle share",
                    "Share of the replicas that computed nothing: the price of being warm.",
                    "percentunit",
                    by_label(f"1 - {rate('pool', select(m.TRITON_COMPUTE_SECONDS))} / ({_PODS} > 0)", "pool"),
                ),
                Panel(
                    "Against reacting",
                    "Replicas above what reacting alone would have asked for.",
                    "short",
                    by_label(f"{_PODS} - max by (pool) ({select(m.AUTOSCALER_FLOOR)})", "pool"),
                ),
            ),
        ),
        (
            "Paid for",
            (
                Panel(
                    "Slices by use and capacity type",
                    "Compute slices allocated to a pool or idle (a whole GPU is 7), on reserved and on-demand nodes.",
                    "short",
                    (Query(rate("use, capacity_type", select(m.COST_SLICE_SECONDS)), "{{use}} {{capacity_type}}"),),
                    "stacked",
                    12,
                ),
                Panel(
                    "Money an hour by namespace",
                    "In the money of the price table; capacity types without a price are missing.",
                    "short",
                    (
                        Query(
                            f"3600 * {rate('use, pool_namespace', select(m.COST_MONEY))}", "{{use}} {{pool_namespace}}"
                        ),
                    ),
                    "stacked",
                    12,
                ),
            ),
        ),
        (
            "Whom for",
            (
                Panel(
                    "Pods by scene",
                    "Replicas shared out by each scene's part of the arrivals; the twelve dearest.",
                    "short",
                    by_label(
                        f"topk(12, sum by (scene) ({_ARRIVALS} / on (pool) group_left () "
                        f"(sum by (pool) ({_ARRIVALS}) > 0) * on (pool) group_left () {_PODS}))",
                        "scene",
                    ),
                    "stacked",
                    12,
                ),
                Panel(
                    "Frames a pod-second",
                    "Answered frames for each second of a pod.",
                    "short",
                    by_label(f"{rate('pool', select(m.GATEWAY_RESPONSES, ANSWERED))} / ({_PODS} > 0)", "pool"),
                    span=12,
                ),
            ),
        ),
    ),
    by_pool=True,
)
