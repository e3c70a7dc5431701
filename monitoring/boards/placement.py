"""Where pods went, and what is left of the GPUs."""

from __future__ import annotations

from fleet import metrics as m
from monitoring.board import Board, Panel, Query, added, by_label, quantile, rate, select

PLACEMENT = Board(
    "placement",
    "Splatfleet / Placement",
    "Do pods land where their scenes are, and what is left of the GPUs?",
    (
        (
            "Where pods went",
            (
                Panel(
                    "Pods bound by tier",
                    "Where the pod's scenes lay on its node: resident and disk are hits.",
                    "short",
                    by_label(added("tier", f"increase({select(m.EXTENDER_PLACEMENTS)}[$__rate_interval])"), "tier"),
                    "stacked",
                ),
                Panel(
                    "Nodes ruled out",
                    "By reason; docs/extender.md explains each.",
                    "ops",
                    by_label(rate("reason", select(m.EXTENDER_REJECTIONS)), "reason"),
                    "stacked",
                ),
                Panel(
                    "Reservations",
                    "Decisions in flight, and those that ran out unheard of.",
                    "short",
                    (
                        Query(added("", select(m.EXTENDER_RESERVATIONS)), "held"),
                        Query(f"sum(increase({select(m.EXTENDER_RESERVATION_LEAKS)}[$__rate_interval]))", "ran out"),
                    ),
                ),
                Panel(
                    "Waiting pods",
                    "Pods that did not fit any node they were offered.",
                    "short",
                    by_label(select(m.EXTENDER_WAITING), "instance"),
                ),
            ),
        ),
        (
            "The extender",
            (
                Panel(
                    "Calls",
                    "Of kube-scheduler, by verb and outcome; fail_open is an answer without an opinion.",
                    "reqps",
                    (Query(rate("verb, outcome", select(m.EXTENDER_REQUESTS)), "{{verb}} {{outcome}}"),),
                    "stacked",
                ),
                Panel(
                    "Latency",
                    "The slowest hundredth by verb; kube-scheduler gives up at 0.5 s.",
                    "s",
                    by_label(quantile(0.99, "verb", m.EXTENDER_SECONDS), "verb"),
                ),
                Panel(
                    "Age of node digests",
                    "Seconds since a node was heard; from 60 s on it is priced like a cold one.",
                    "s",
                    by_label(f"min by (node) ({select(m.EXTENDER_DIGEST_AGE)})", "node"),
                ),
            ),
        ),
        (
            "Slices",
            (
                Panel(
                    "Slices",
                    "MIG slices of the nodes by profile and state.",
                    "short",
                    (Query(added("profile, state", select(m.MIG_SLICES)), "{{profile}} {{state}}"),),
                    "stacked",
                ),
                Panel(
                    "Largest placeable",
                    "Memory slices of the largest profile that still fits a GPU: low on a GPU with free slices "
                    "is fragmentation.",
                    "short",
                    by_label(select(m.MIG_LARGEST_PLACEABLE), "gpu"),
                ),
                Panel(
                    "Certificate",
                    "Time until the extender's certificate expires.",
                    "s",
                    by_label(f"{select(m.EXTENDER_CERTIFICATE_NOT_AFTER)} - time()", "instance"),
                ),
            ),
        ),
    ),
)
