"""What visitors feel."""

from __future__ import annotations

from fleet import metrics as m
from fleet import recordings as r
from monitoring.board import Board, Panel, Query, added, by_label, quantile, rate, select

SERVICE = Board(
    "service",
    "Splatfleet / Service",
    "What visitors feel, and the machines beneath it.",
    (
        (
            "Frames",
            (
                Panel(
                    "Wait",
                    "From the arrival until the render starts; the objective is 99 % within 0.5 s.",
                    "s",
                    (
                        Query(quantile(0.5, "pool", m.GATEWAY_WAIT_SECONDS), "{{pool}} p50"),
                        Query(quantile(0.99, "pool", m.GATEWAY_WAIT_SECONDS), "{{pool}} p99"),
                    ),
                ),
                Panel(
                    "Frame",
                    "From the arrival until the picture was sent, and the render alone.",
                    "s",
                    (
                        Query(quantile(0.5, "pool", m.GATEWAY_FRAME_SECONDS), "{{pool}} p50"),
                        Query(quantile(0.99, "pool", m.GATEWAY_FRAME_SECONDS), "{{pool}} p99"),
                        Query(quantile(0.5, "", m.RENDERER_RENDER_SECONDS), "render p50"),
                    ),
                ),
                Panel(
                    "Late or failed",
                    "Share of the requests over an hour and over five minutes; 1 % is the objective.",
                    "percentunit",
                    (
                        Query(f'{r.VIOLATIONS_5M.name}{{pool=~"$pool"}}', "{{pool}} 5m"),
                        Query(f'{r.VIOLATIONS["1h"].name}{{pool=~"$pool"}}', "{{pool}} 1h"),
                    ),
                ),
            ),
        ),
        (
            "Answers",
            (
                Panel(
                    "By status",
                    "Answers by HTTP status.",
                    "reqps",
                    by_label(rate("code", select(m.GATEWAY_RESPONSES)), "code"),
                    "stacked",
                ),
                Panel(
                    "Refusals",
                    "Requests and cameras that got no frame, by error; docs/gateway.md explains each.",
                    "reqps",
                    by_label(rate("error", select(m.GATEWAY_REFUSALS)), "error"),
                    "stacked",
                ),
                Panel(
                    "Met a cold fleet",
                    "Requests that met no ready pod, or none with their scene.",
                    "reqps",
                    by_label(rate("cause", select(m.GATEWAY_COLD_REQUESTS)), "cause"),
                    "stacked",
                ),
                Panel(
                    "Streams",
                    "Sessions that are open.",
                    "short",
                    by_label(added("pool", select(m.GATEWAY_SESSIONS)), "pool"),
                ),
                Panel(
                    "Superseded",
                    "Cameras that a newer one of the session replaced before their frame.",
                    "ops",
                    by_label(rate("pool", select(m.GATEWAY_SUPERSEDED)), "pool"),
                ),
                Panel(
                    "Pictures",
                    "Bytes of pictures sent.",
                    "Bps",
                    by_label(rate("pool", select(m.GATEWAY_FRAME_BYTES)), "pool"),
                ),
            ),
        ),
        (
            "Machines",
            (
                Panel(
                    "GPU duty",
                    "Share of time that a GPU or slice was busy; absent without a GPU.",
                    "percentunit",
                    (Query(select(m.GPU_DUTY), "{{gpu}} {{slice}}"),),
                ),
                Panel(
                    "GPU memory",
                    "In use and in all, by GPU or slice; absent without a GPU.",
                    "bytes",
                    (
                        Query(select(m.GPU_MEMORY_USED), "{{gpu}} {{slice}} used"),
                        Query(select(m.GPU_MEMORY_TOTAL), "{{gpu}} {{slice}} all"),
                    ),
                ),
                Panel(
                    "Node health",
                    "1 where the exporter of a node can read everything there: pods, store and GPUs.",
                    "short",
                    (Query(f"min by (instance) ({select(m.SOURCE_UP)})", "{{instance}}"),),
                ),
                Panel(
                    "Sources",
                    "1 where the exporter of a node can read a source.",
                    "short",
                    (Query(select(m.SOURCE_UP), "{{source}} {{target}}"),),
                ),
            ),
        ),
    ),
    by_pool=True,
)
