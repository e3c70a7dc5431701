"""docs/autoscaler.md names every reason, and no other."""

from __future__ import annotations

import re
from pathlib import Path

import yaml

from autoscaler.config import parse_pool
from autoscaler.decision import Reason

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "autoscaler.md").read_text()


def test_every_reason_is_explained() -> None:
    table = PAGE.partition("## Reasons")[2].partition("## Alone")[0]
    assert set(re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE)) == {reason.value for reason in Reason}


def test_the_example_is_valid() -> None:
    example = yaml.safe_load(PAGE.partition("```yaml")[2].partition("```")[0])
    (pool,) = [parse_pool(item) for item in example["pools"]]
    assert pool.objective.max_queue_wait_s == 0.5
