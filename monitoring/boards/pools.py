"""One pool: its traffic, its queue, its pods."""

from __future__ import annotations

from fleet import metrics as m
from monitoring.board import Board, Panel, Query, added, by_label, rate, select

POOLS = Board(
    "pools",
    "Splatfleet / Pools",
    "One pool: its traffic, its queue, its pods.",
    (
        (
            "Traffic",
            (
                Panel(
                    "Arrivals by scene",
                    "The twelve scenes that are asked for most.",
                    "reqps",
                    by_label(f"topk(12, {rate('scene', select(m.GATEWAY_REQUESTS))})", "scene"),
                    "stacked",
                    12,
                ),
                Panel(
                    "Pods",
                    "By state as gateways see them; a pod is ready once its scenes are in memory.",
                    "short",
                    by_label(f"max by (state) ({select(m.GATEWAY_PODS)})", "state"),
                    "stacked",
                    12,
                ),
            ),
        ),
        (
            "Queue",
            (
                Panel(
                    "Waiting",
                    "Requests that wait in gateways and in Triton: it moves also where a server is stuck.",
                    "short",
                    (
                        Query(added("pool", select(m.GATEWAY_PENDING)), "{{pool}} gateway"),
                        Query(added("pool", select(m.TRITON_PENDING)), "{{pool}} Triton"),
                        Query(added("pool", select(m.GATEWAY_IN_FLIGHT)), "{{pool}} with a pod"),
                    ),
                ),
                Panel(
                    "Queue to compute",
                    "Queue seconds over compute seconds by pool, sums first; absent where nothing is computed.",
                    "short",
                    by_label(
                        f"{rate('pool', select(m.TRITON_QUEUE_SECONDS))} / "
                        f"({rate('pool', select(m.TRITON_COMPUTE_SECONDS))} > 0)",
                        "pool",
                    ),
                ),
                Panel(
                    "Queue to compute by pod",
                    "The exporter's own figure: one pod apart from the others is slow or stuck.",
                    "short",
                    by_label(select(m.TRITON_QUEUE_TO_COMPUTE), "pod"),
                ),
            ),
        ),
        (
            "Pods",
            (
                Panel(
                    "Busy pods",
                    "Seconds computed a second: the number of pods that were busy.",
                    "short",
                    by_label(rate("pool", select(m.TRITON_COMPUTE_SECONDS)), "pool"),
                ),
                Panel(
                    "Completed by Triton",
                    "Requests by outcome.",
                    "reqps",
                    by_label(rate("outcome", select(m.TRITON_REQUESTS)), "outcome"),
                    "stacked",
                ),
                Panel(
                    "Scenes asked ahead",
                    "Scenes that the autoscaler asked to be warmed, by stage.",
                    "ops",
                    by_label(rate("stage", select(m.AUTOSCALER_WARM_ASKS)), "stage"),
                    "stacked",
                ),
            ),
        ),
    ),
    by_pool=True,
)
