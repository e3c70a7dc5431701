"""The pages that are made from code say what the code says."""

from __future__ import annotations

import runpy

import pytest

from autoscaler.event_catalogue import CATALOGUE
from autoscaler.status import _NEWS, EventReason
from tests.conftest import REPOSITORY


@pytest.mark.parametrize("page", ["events", "cli"])
def test_a_page_has_not_drifted(page: str) -> None:
    made = runpy.run_path(str(REPOSITORY / "scripts" / "references.py"))[page]()
    assert (REPOSITORY / "docs" / f"{page}.md").read_text() == made, "run: make deploy"


def test_every_event_is_explained_with_the_type_that_it_has() -> None:
    assert set(CATALOGUE) == set(EventReason)
    assert {reason: CATALOGUE[reason].kind for reason, _ in _NEWS.values()} == dict(_NEWS.values())
