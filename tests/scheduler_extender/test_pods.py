"""A watched pod that changed is read as one that was never seen before, whatever changed of it."""

from __future__ import annotations

import json
from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from fleet.labels import ANY_SLICE_ANNOTATION, POD_BUDGET_ENV, POOL_LABEL, SCENE_BYTES_ANNOTATION, SCENES_ANNOTATION
from scheduler_extender.pods import WatchedPod, read_again, read_pod

SLICE = "nvidia.com/mig-1g.10gb"


def sometimes(values: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.none() | values


containers = st.lists(
    st.fixed_dictionaries(
        {
            "resources": sometimes(st.fixed_dictionaries({"limits": st.just({SLICE: "1"}) | st.just({SLICE: "x"})})),
            "env": sometimes(st.just([{"name": POD_BUDGET_ENV, "value": "1000"}])),
        }
    ),
    max_size=2,
)
objects = st.fixed_dictionaries(
    {
        "metadata": st.fixed_dictionaries(
            {
                "name": st.just("p"),
                "uid": st.sampled_from(["u", "v"]),
                "labels": sometimes(st.just({POOL_LABEL: "web"})),
                "annotations": sometimes(
                    st.dictionaries(
                        st.sampled_from([SCENES_ANNOTATION, SCENE_BYTES_ANNOTATION, ANY_SLICE_ANNOTATION]),
                        st.sampled_from(["robot", "robot=5", "10", "?"]),
                    )
                ),
            }
        ),
        "spec": sometimes(
            st.fixed_dictionaries(
                {
                    "nodeName": sometimes(st.sampled_from(["", "a", "b"])),
                    "containers": sometimes(containers),
                    "initContainers": sometimes(containers),
                    "priority": sometimes(st.integers(0, 1)),
                    "resourceClaims": sometimes(st.just([{"name": "gpu"}])),
                    "volumes": sometimes(st.just([{"name": "v", "ephemeral": {}}])),
                    "affinity": sometimes(
                        st.just({"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 1}]}})
                    ),
                }
            )
        ),
        "status": sometimes(
            st.fixed_dictionaries(
                {
                    "phase": sometimes(st.sampled_from(["Pending", "Running", "Succeeded", "Failed"])),
                    "conditions": sometimes(
                        st.lists(
                            st.fixed_dictionaries(
                                {"type": st.just("Ready"), "status": st.sampled_from(["True", "False"])}
                            ),
                            max_size=1,
                        )
                    ),
                }
            )
        ),
    }
)


def watched(document: dict[str, Any]) -> WatchedPod:
    return msgspec.json.decode(json.dumps(document), type=WatchedPod)


@given(objects, objects, st.sets(st.sampled_from(["metadata", "spec", "status", "node"]), max_size=3))
def test_a_change_is_read_as_if_it_were_news(first: dict[str, Any], other: dict[str, Any], moved: set[str]) -> None:
    second = {key: other[key] if key in moved else value for key, value in first.items()}
    if "node" in moved and second["spec"]:
        second["spec"] = second["spec"] | {"nodeName": "c"}
    before, now = watched(first), watched(second)
    assert read_again(read_pod(before), before, now) == read_pod(now)
