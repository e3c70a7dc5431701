"""The recording rules and alerts as the groups of a Prometheus rule file."""

from __future__ import annotations

from typing import Any

import yaml

from fleet.recordings import RECORDINGS
from monitoring.alerts import ALERTS, RUNBOOKS_URL, Alert

RECORDING_INTERVAL = "30s"


def recording_groups() -> list[dict[str, Any]]:
    """One group: a rule sees what those above it wrote in the same evaluation."""
    rules = [{"record": item.name, "expr": item.expression} for item in RECORDINGS.values()]
    return [{"name": "splatfleet.recordings", "interval": RECORDING_INTERVAL, "rules": rules}]


def alert_groups() -> list[dict[str, Any]]:
    """A group of alerts for each part."""
    parts = dict.fromkeys(alert.part for alert in ALERTS)
    return [
        {"name": f"splatfleet.alerts.{part}", "rules": [_rule(alert) for alert in ALERTS if alert.part == part]}
        for part in parts
    ]


def _rule(alert: Alert) -> dict[str, Any]:
    rule: dict[str, Any] = {"alert": alert.name, "expr": alert.expression}
    if alert.lasts:
        rule["for"] = alert.lasts
    rule["labels"] = {"severity": alert.severity}
    rule["annotations"] = {
        "summary": alert.summary,
        "description": alert.description,
        "runbook_url": f"{RUNBOOKS_URL}#{alert.name.lower()}",
        "dashboard_url": f"/d/splatfleet-{alert.dashboard}",
    }
    return rule


def rule_files() -> dict[str, str]:
    """The rule files by name, as YAML."""
    head = "# Made by `splatfleet monitoring`; a test compares the two.\n"
    groups = {"recordings.yaml": recording_groups(), "alerts.yaml": alert_groups()}
    return {
        name: head + yaml.safe_dump({"groups": made}, sort_keys=False, width=1_000_000) for name, made in groups.items()
    }
