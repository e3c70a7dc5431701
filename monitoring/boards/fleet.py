"""Demand, forecast and capacity of all pools."""

from __future__ import annotations

from fleet import metrics as m
from fleet import recordings as r
from monitoring.board import Board, Panel, Query, added, by_label, number, quantile, rate, select, select_any_pool

READY = 'state="ready"'

FLEET = Board(
    "fleet",
    "Splatfleet / Fleet overview",
    "Demand, forecast, capacity and why: is the fleet ahead of its traffic?",
    (
        (
            "Now",
            (
                number(
                    "Demand", "Requests a second that arrive.", "reqps", rate("", select_any_pool(m.GATEWAY_REQUESTS))
                ),
                number(
                    "Waiting", "Requests that wait in gateways.", "short", added("", select_any_pool(m.GATEWAY_PENDING))
                ),
                number(
                    "Ready pods",
                    "Pods that serve; each gateway counts all.",
                    "short",
                    f"sum(max by (pool) ({select_any_pool(m.GATEWAY_PODS, READY)}))",
                ),
                number(
                    "Desired pods",
                    "Pods that the last decisions ask for.",
                    "short",
                    f"sum(max by (pool) ({select_any_pool(m.AUTOSCALER_DESIRED)}))",
                ),
                number(
                    "Late or failed",
                    "Share of the last hour's requests that waited over 0.5 s or failed.",
                    "percentunit",
                    f"max({r.VIOLATIONS['1h'].name})",
                ),
                number(
                    "Sources down",
                    "Sources that an exporter cannot read.",
                    "short",
                    f"count({select(m.SOURCE_UP)} == 0) or vector(0)",
                ),
            ),
        ),
        (
            "Ahead of the traffic",
            (
                Panel(
                    "Demand and forecast",
                    "Demand of the last bin, and quantiles of the highest demand in the lead: they should lie above.",
                    "reqps",
                    (
                        Query(f"max by (pool) ({select_any_pool(m.AUTOSCALER_DEMAND)})", "{{pool}} demand"),
                        Query(
                            f"max by (pool, level) ({select_any_pool(m.AUTOSCALER_FORECAST)})", "{{pool}} q{{level}}"
                        ),
                    ),
                    span=12,
                ),
                Panel(
                    "Capacity",
                    "Replicas that run, that the last decision asked for, and what reacting alone would ask for.",
                    "short",
                    (
                        Query(f"max by (pool) ({select_any_pool(m.AUTOSCALER_CURRENT)})", "{{pool}} runs"),
                        Query(f"max by (pool) ({select_any_pool(m.AUTOSCALER_DESIRED)})", "{{pool}} desired"),
                        Query(f"max by (pool) ({select_any_pool(m.AUTOSCALER_FLOOR)})", "{{pool}} reacting"),
                    ),
                    span=12,
                ),
                Panel(
                    "Decisions by reason",
                    "Why the counts are what they are; docs/autoscaler.md explains each reason.",
                    "ops",
                    by_label(f"{rate('reason', select_any_pool(m.AUTOSCALER_DECISIONS))} > 0", "reason"),
                    "stacked",
                    12,
                ),
                Panel(
                    "Lead",
                    "How far ahead the forecast looks: the measured start-up quantile plus one tick.",
                    "s",
                    by_label(f"max by (pool) ({select_any_pool(m.AUTOSCALER_LEAD)})", "pool"),
                    span=6,
                ),
                Panel(
                    "Ticks",
                    "Seconds of one tick, the slowest hundredth.",
                    "s",
                    (Query(quantile(0.99, "", m.AUTOSCALER_TICK_SECONDS), "p99"),),
                    span=6,
                ),
            ),
        ),
        (
            "Carried out",
            (
                Panel(
                    "Start-up",
                    "Seconds from the ask for a pod until it was ready, by stage: what the lead is made of.",
                    "s",
                    (Query(quantile(0.9, "stage", m.AUTOSCALER_STARTUP_SECONDS), "{{stage}} p90"),),
                    span=12,
                ),
                Panel(
                    "KEDA",
                    "Calls of KEDA to the external scaler, by verb and gRPC status: an error makes its HPA hold.",
                    "reqps",
                    (Query(rate("verb, code", select_any_pool(m.AUTOSCALER_KEDA_REQUESTS)), "{{verb}} {{code}}"),),
                    "stacked",
                    12,
                ),
            ),
        ),
        (
            "Is the forecast to be believed?",
            (
                Panel(
                    "Coverage",
                    "Share of past forecasts of the working quantile that held; it should be near the quantile.",
                    "percentunit",
                    by_label(f"max by (pool) ({select_any_pool(m.AUTOSCALER_COVERAGE)})", "pool"),
                ),
                Panel(
                    "Skill",
                    "Loss over that of persistence: below 1 the forecast helps, from 1 on persistence stands in.",
                    "short",
                    by_label(f"max by (pool) ({select_any_pool(m.AUTOSCALER_SKILL)})", "pool"),
                ),
                Panel(
                    "Experts",
                    "Weights in the mixture.",
                    "percentunit",
                    (Query(f"max by (pool, expert) ({select_any_pool(m.AUTOSCALER_WEIGHT)})", "{{pool}} {{expert}}"),),
                    "stacked",
                ),
            ),
        ),
    ),
)
