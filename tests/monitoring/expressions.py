"""The variables of a dashboard, filled in as Grafana would."""

from __future__ import annotations


def filled(text: str, window_s: int = 60, range_s: int = 3600) -> str:
    """PromQL with every variable replaced: all targets, all pools."""
    return (
        text.replace("$__rate_interval", f"{window_s}s")
        .replace("$__range_s", str(range_s))
        .replace("$__range", f"{range_s}s")
        .replace("$job", ".+")
        .replace("$instance", ".+")
        .replace("$pool", ".+")
    )
