"""The part of CEL that selects devices."""

from __future__ import annotations

import pytest

from scheduler_extender.selectors import DeviceFacts, SelectorError, read_selector, selects_all

GIB = 1 << 30
H100 = DeviceFacts(
    "gpu.nvidia.com",
    {"gpu.nvidia.com": {"type": "mig", "profile": "1g.10gb", "productName": "NVIDIA H100", "minor": 3, "ecc": True}},
    {"gpu.nvidia.com": {"memory": 10.0 * GIB}},
)
A = 'device.attributes["gpu.nvidia.com"]'


@pytest.mark.parametrize(
    ("expression", "selected"),
    [
        ('device.driver == "gpu.nvidia.com"', True),
        (f"device.driver == 'gpu.nvidia.com' && {A}.type == 'mig' && {A}.profile == '1g.10gb'", True),
        (f'{A}.type == "gpu" || {A}.minor >= 3', True),
        (f"!({A}.minor > 2) || {A}.ecc", True),
        (f"!{A}.ecc", False),
        (f'{A}["profile"] in ["1g.10gb", "2g.20gb"]', True),
        (f'{A}.profile in ["3g.40gb",]', False),
        (f'{A}.productName.startsWith("NVIDIA") && {A}.productName.contains("H1")', True),
        ('device.capacity["gpu.nvidia.com"].memory.compareTo(quantity("10Gi")) >= 0', True),
        ('device.capacity["gpu.nvidia.com"].memory.isGreaterThan(quantity("10Gi"))', False),
        ('device.capacity["gpu.nvidia.com"].memory.isLessThan(quantity("20G"))', True),
        (f'{A}.ecc || {A}.absent == "x"', True),  # a side that decides does, whatever the other lacks
        (f'{A}.absent == "x" || {A}.ecc', True),
        (f'{A}.absent == "x" && {A}.type == "gpu"', False),
        ("true", True),
    ],
)
def test_expressions(expression: str, selected: bool) -> None:
    assert read_selector(expression)(H100) is selected


@pytest.mark.parametrize(
    "expression",
    [
        "",
        "device.driver ==",
        'device.driver == "a" )',
        "cel.bind(x, 1, x == 1)",
        f'{A}.profile.matches("(a+)+$")',
        "[1, 2].exists(x, x == 1)",
        "device.driver + 'x' == 'y'",
        "(" * 60 + "true" + ")" * 60,
        "!" * 60 + "true",
        "true && " * 400 + "true",
        '"open',
        "device.allowMultipleAllocations == true ? true : false",
    ],
)
def test_what_is_not_understood_is_refused_when_it_is_read(expression: str) -> None:
    with pytest.raises(SelectorError):
        read_selector(expression)


@pytest.mark.parametrize(
    "expression", [f"{A}.absent == 1", f"{A}.type", f"{A}.type > 3", f"{A}.minor.startsWith('3')", "!device.driver"]
)
def test_a_device_that_lacks_a_fact_is_not_selected(expression: str) -> None:
    with pytest.raises(SelectorError):
        read_selector(expression)(H100)
    assert not selects_all([expression])(H100)


def test_every_selector_of_a_class_must_select() -> None:
    assert selects_all(['device.driver == "gpu.nvidia.com"', f"{A}.ecc"])(H100)
    assert not selects_all(['device.driver == "gpu.nvidia.com"', f"!{A}.ecc"])(H100)
    assert selects_all([])(H100)
