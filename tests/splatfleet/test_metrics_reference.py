"""docs/metrics.md is what the catalogue says."""

from __future__ import annotations

import importlib
import pkgutil

from fleet import metrics
from fleet.metrics import Metric
from splatfleet.metrics import markdown
from tests.conftest import REPOSITORY


def test_the_reference_has_not_drifted() -> None:
    assert (REPOSITORY / "docs" / "metrics.md").read_text() == markdown(), "run: splatfleet metrics > docs/metrics.md"


def test_every_metric_of_every_part_is_in_the_catalogue_and_has_its_name_here() -> None:
    parts = [importlib.import_module(f"fleet.metrics.{found.name}") for found in pkgutil.iter_modules(metrics.__path__)]
    declared = {name: value for part in parts for name, value in vars(part).items() if isinstance(value, Metric)}
    assert {value.name: value for value in declared.values()} == metrics.CATALOGUE
    assert all(getattr(metrics, name) is value for name, value in declared.items())
