"""What is read of a pod: devices of containers and init containers, annotations, phases; nothing crashes."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler_extender.pods import MOST_SLICES
from scheduler_extender.wire import WireError, decode_args, decode_events


def read(pod: dict[str, Any]) -> Any:
    return decode_args(json.dumps({"Pod": pod, "NodeNames": ["n"]}).encode()).pod


def container(restart: str | None = None, **devices: Any) -> dict[str, Any]:
    limits = {f"nvidia.com/{name}": count for name, count in devices.items()}
    return {"name": "c", "resources": {"limits": limits}, **({"restartPolicy": restart} if restart else {})}


def spec(containers: list[Any], init: list[Any] | None = None) -> dict[str, Any]:
    return {"spec": {"containers": containers, "initContainers": init}}


MIG = "mig-1g.10gb"


@pytest.mark.parametrize(
    ("pod", "expected"),
    [
        (spec([container(**{MIG: "1"})]), ["1g.10gb"]),
        (spec([container(**{MIG: 2})]), ["1g.10gb", "1g.10gb"]),
        (spec([container(**{MIG: "1"}), container(**{"mig-3g.40gb": "1"})]), ["1g.10gb", "3g.40gb"]),
        (spec([container(**{MIG: "1"})], [container(**{MIG: "1"})]), ["1g.10gb"]),
        (spec([container(**{MIG: "1"})], [container(**{MIG: "3"})]), ["1g.10gb"] * 3),
        (spec([container(**{MIG: "1"})], [container("Always", **{MIG: "1"})]), ["1g.10gb"] * 2),
        (spec([container(**{"mig-1g.10gb.me": "1"})]), ["1g.10gb+me"]),
        (spec([{"resources": {"requests": {"nvidia.com/mig-1g.10gb": "1"}}}]), ["1g.10gb"]),
        (spec([container(**{MIG: "0"})]), []),
        (spec([{"resources": {"limits": {"cpu": "2", "memory": "1Gi"}}}, {"resources": None}, {}]), []),
        ({"spec": None}, []),
        ({}, []),
    ],
)
def test_slices_that_a_pod_asks_for(pod: dict[str, Any], expected: list[str]) -> None:
    asked = read(pod)
    assert [str(profile) for profile in asked.profiles] == expected
    assert asked.problems == ()


def test_whole_gpus() -> None:
    assert read(spec([container(gpu="2")])).gpus == 2


@pytest.mark.parametrize("quantity", ["-1", "1.5", "one", "", None, True, [], {}, "1" * 40, "9Q"])
def test_a_bad_quantity_is_a_problem_in_words(quantity: Any) -> None:
    asked = read(spec([container(**{MIG: quantity})]))
    assert asked.profiles == ()
    assert "quantity" in asked.problems[0]


def test_a_huge_quantity_is_bounded() -> None:
    assert len(read(spec([container(**{MIG: "999999999999"})])).profiles) == MOST_SLICES


def test_annotations_and_labels() -> None:
    asked = read(
        {
            "metadata": {
                "labels": {"splatfleet.io/pool": "web"},
                "annotations": {
                    "splatfleet.io/scenes": "robot, train,robot",
                    "splatfleet.io/scene-bytes": "robot=5,train=6",
                },
            }
        }
    )
    assert (asked.pool, asked.scenes, asked.scene_bytes) == ("web", ("robot", "train"), {"robot": 5, "train": 6})


@pytest.mark.parametrize(
    ("annotation", "text"),
    [
        ("scenes", "Robot"),
        ("scenes", "../etc/passwd"),
        ("scene-bytes", "robot"),
        ("scene-bytes", "robot=-5"),
        ("scene-bytes", "robot=1e9"),
        ("scene-bytes", "robot=" + "9" * 400),
    ],
)
def test_a_bad_annotation_is_a_problem_in_words(annotation: str, text: str) -> None:
    asked = read({"metadata": {"annotations": {f"splatfleet.io/{annotation}": text}}})
    assert f"splatfleet.io/{annotation}" in asked.problems[0]
    assert len(asked.problems[0]) < 300
    assert (asked.scenes, asked.scene_bytes) == ((), {})


@pytest.mark.parametrize(
    ("status", "finished", "ready"),
    [
        ({"phase": "Pending"}, False, False),
        ({"phase": "Running"}, False, True),
        ({"phase": "Running", "conditions": [{"type": "Ready", "status": "False"}]}, False, False),
        ({"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}, False, True),
        ({"phase": "Succeeded"}, True, False),
        ({"phase": "Failed"}, True, False),
        (None, False, False),
    ],
)
def test_phases(status: Any, finished: bool, ready: bool) -> None:
    asked = read({"status": status})
    assert (asked.finished, asked.ready) == (finished, ready)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(
                ["Pod", "pod", "Nodes", "NodeNames", "items", "metadata", "spec", "containers", "resources"]
            )
            | st.sampled_from(
                ["limits", "nvidia.com/mig-1g.10gb", "annotations", "splatfleet.io/scenes", "type", "object"]
            ),
            inner,
            max_size=5,
        )
    ),
    max_leaves=20,
)


@given(JSON)
def test_any_json_is_read_or_refused_in_words(value: Any) -> None:
    body = json.dumps(value).encode()
    for decode in (decode_args, decode_events):
        with suppress(WireError):
            decode(body)


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused_in_words(body: bytes) -> None:
    for decode in (decode_args, decode_events):
        with suppress(WireError):
            decode(body)
