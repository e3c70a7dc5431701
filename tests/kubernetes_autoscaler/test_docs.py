"""docs/autoscaler-kubernetes.md names what there is."""

from __future__ import annotations

import re
from pathlib import Path

from autoscaler.permissions import PERMISSIONS
from autoscaler.status import EventReason

DOCS = Path(__file__).resolve().parents[2] / "docs"
PAGE = (DOCS / "autoscaler-kubernetes.md").read_text()


def section(name: str) -> str:
    return PAGE.partition(f"## {name}\n")[2].partition("\n## ")[0]


def first_cells(name: str) -> list[str]:
    return [line.split("|")[1] for line in section(name).splitlines() if line.startswith("| `")]


def test_every_event_has_a_row() -> None:
    rows = [line for line in (DOCS / "events.md").read_text().splitlines() if line.startswith("| `")]
    named = [reason for row in rows for reason in re.findall(r"`(\w+)`", row.split("|")[1])]
    assert sorted(named) == sorted(reason.value for reason in EventReason)


def test_every_permission_has_a_row() -> None:
    rows = [[cell.strip() for cell in line.split("|")[1:4]] for line in section("Rights").splitlines() if "|" in line]
    assert rows[2:] == [[found.group, found.name, ", ".join(found.verbs)] for found in PERMISSIONS]


def test_every_condition_has_a_row() -> None:
    source = (Path(__file__).resolve().parents[2] / "autoscaler/status.py").read_text()
    written = set(re.findall(r'Condition\("(\w+)"', source))
    assert {cell.strip(" `") for cell in first_cells("Conditions")} == written
