"""docs/extender.md says what the code does: reasons, defaults, and a configuration that works."""

from __future__ import annotations

import re
from dataclasses import asdict

import pytest
import yaml

from scheduler_extender.fit import Reason
from scheduler_extender.prices import Prices
from tests.conftest import REPOSITORY


@pytest.fixture(scope="module")
def page() -> str:
    return (REPOSITORY / "docs" / "extender.md").read_text()


def test_reasons(page: str) -> None:
    told = dict(re.findall(r"^\| `(\w+)` \| (yes|no) \|", page, re.MULTILINE))
    assert told == {reason.label: "yes" if reason.resolvable else "no" for reason in Reason}


def test_defaults(page: str) -> None:
    told = {name: float(value) for name, value in re.findall(r"^\| `(\w+)` \| ([\d.]+) \|", page, re.MULTILINE)}
    assert told == asdict(Prices())


def test_configuration(page: str) -> None:
    configuration = yaml.safe_load(re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)[0])
    assert configuration["kind"] == "KubeSchedulerConfiguration"
    assert configuration["profiles"][0]["percentageOfNodesToScore"] == 100
    (extender,) = configuration["extenders"]
    assert extender["weight"] >= 13
    assert extender["nodeCacheCapable"] is True
    assert extender["ignorable"] is True
    assert "bindVerb" not in extender
