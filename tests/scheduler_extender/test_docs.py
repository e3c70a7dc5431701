"""docs/extender.md says what the code does: reasons, defaults, and a configuration that works."""

from __future__ import annotations

import re
from dataclasses import asdict

import msgspec
import pytest
import yaml

from kube.device_objects import DeviceClass
from scheduler_extender.devices import read_class
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


def test_device_class(page: str) -> None:
    documents = [yaml.safe_load(block) for block in re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)]
    (found,) = [found for found in documents if found["kind"] == "DeviceClass"]
    assert read_class(msgspec.convert(found, DeviceClass)).resources[-1] == found["spec"]["extendedResourceName"]


def test_configuration(page: str) -> None:
    documents = [yaml.safe_load(block) for block in re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)]
    (configuration,) = [found for found in documents if found["kind"] == "KubeSchedulerConfiguration"]
    assert configuration["profiles"][0]["percentageOfNodesToScore"] == 100
    (extender,) = configuration["extenders"]
    assert extender["weight"] >= 13
    assert extender["nodeCacheCapable"] is True
    assert extender["ignorable"] is True
    assert "bindVerb" not in extender
