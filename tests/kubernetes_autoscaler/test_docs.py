"""docs/autoscaler-kubernetes.md names what there is."""

from __future__ import annotations

import re
from pathlib import Path

from autoscaler.permissions import PERMISSIONS
from autoscaler.status import EventReason

PAGE = (Path(__file__).resolve().parents[2] / "docs/autoscaler-kubernetes.md").read_text()


def section(name: str) -> str:
    return PAGE.partition(f"## {name}\n")[2].partition("\n## ")[0]


def first_cells(name: str) -> list[str]:
    return [line.split("|")[1] for line in section(name).splitlines() if line.startswith("| `")]


def test_every_event_has_a_row() -> None:
    named = [reason for cell in first_cells("Events") for reason in re.findall(r"`(\w+)`", cell)]
    assert sorted(named) == sorted(reason.value for reason in EventReason)


def test_every_permission_has_a_row() -> None:
    rows = [[cell.strip() for cell in line.split("|")[1:4]] for line in section("Rights").splitlines() if "|" in line]
    assert rows[2:] == [[found.group, found.name, ", ".join(found.verbs)] for found in PERMISSIONS]


def test_every_condition_has_a_row() -> None:
    source = (Path(__file__).resolve().parents[2] / "autoscaler/status.py").read_text()
    written = set(re.findall(r'Condition\("(\w+)"', source))
    assert {cell.strip(" `") for cell in first_cells("Conditions")} == written
