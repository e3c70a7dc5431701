"""docs/metrics.md is what the catalogue says."""

from __future__ import annotations

from splatfleet.metrics import markdown
from tests.conftest import REPOSITORY


def test_the_reference_has_not_drifted() -> None:
    assert (REPOSITORY / "docs" / "metrics.md").read_text() == markdown(), "run: splatfleet metrics > docs/metrics.md"
