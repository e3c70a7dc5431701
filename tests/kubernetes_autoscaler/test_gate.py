"""The gate `splatfleet.io/scenes`: a pod is not placed before somebody has said which scenes it loads."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from autoscaler import target
from autoscaler.target import Writes, is_gated
from fleet.labels import SCENES_ANNOTATION, SCENES_GATE
from fleet.scene import SceneId
from kube.connection import Connection
from kube.lease import NotLeading
from kube.objects import Pod
from tests.kubernetes_autoscaler.cluster import Space, until

OTHER_GATE = "example.com/quota"


class Leading:
    """A guard that says what the test wants."""

    def __init__(self) -> None:
        self.leads = True

    def __call__(self, seconds: float) -> None:
        if not self.leads:
            raise NotLeading(f"not for {seconds} s")


@pytest.fixture
def connection(space: Space) -> Iterator[Connection]:
    found = Connection.open(space.plane.kubeconfig)
    yield found
    found.close()


@pytest.fixture
def guard() -> Leading:
    return Leading()


@pytest.fixture
def writes(connection: Connection, guard: Leading) -> Writes:
    return Writes(connection, guard, 5.0, 0.0)


def make(space: Space, name: str, *gates: str, scenes: str = "") -> Pod:
    metadata: dict[str, Any] = {"name": name, "annotations": {SCENES_ANNOTATION: scenes} if scenes else {}}
    spec = {
        "containers": [{"name": "renderer", "image": "none"}],
        "schedulingGates": [{"name": gate} for gate in gates],
    }
    return as_pod(space.plane.request("POST", space.path("pods", group="api/v1"), {"metadata": metadata, "spec": spec}))


def as_pod(document: Any) -> Pod:
    return msgspec.json.decode(msgspec.json.encode(document), type=Pod)


def now(space: Space, name: str) -> Pod:
    return as_pod(space.plane.request("GET", space.path("pods", name, "api/v1")))


def scenes_of(pod: Pod) -> str:
    return pod.metadata.annotation(SCENES_ANNOTATION)


def bound(space: Space, name: str) -> bool:
    return bool(now(space, name).spec.node_name)


def test_a_gated_pod_is_placed_once_it_was_told_its_scenes(space: Space, writes: Writes) -> None:
    pod = make(space, "waits", SCENES_GATE, scenes="of-the-template")
    assert is_gated(pod)
    writes.plan("pool", [(SceneId("knot"), SceneId("planet"))])
    assert not bound(space, "waits")
    writes.pod_came("pool", pod)
    opened = now(space, "waits")
    assert not is_gated(opened)
    assert scenes_of(opened) == "knot,planet"
    until(lambda: bound(space, "waits"), 20)


def test_a_gate_opens_without_a_plan_and_leaves_the_template_and_other_gates_alone(
    space: Space, writes: Writes
) -> None:
    writes.pod_came("pool", make(space, "unplanned", SCENES_GATE, OTHER_GATE, scenes="of-the-template"))
    opened = now(space, "unplanned")
    assert [gate["name"] for gate in opened.spec.scheduling_gates or ()] == [OTHER_GATE]
    assert scenes_of(opened) == "of-the-template"


def test_whoever_does_not_lead_opens_nothing_and_the_plan_waits_for_the_next_try(
    space: Space, writes: Writes, guard: Leading, monkeypatch: pytest.MonkeyPatch
) -> None:
    pod = make(space, "led", SCENES_GATE)
    writes.plan("pool", [(SceneId("knot"),)])
    guard.leads = False
    writes.pod_came("pool", pod)
    assert is_gated(now(space, "led"))
    guard.leads = True
    writes.pod_came("pool", pod)  # at once: the watch may not have brought back the first write yet
    assert is_gated(now(space, "led"))
    monkeypatch.setattr(target, "GATE_RETRY_S", 0.0)
    writes.pod_came("pool", pod)
    assert scenes_of(now(space, "led")) == "knot"
    assert not is_gated(now(space, "led"))


def test_pods_without_a_gate_are_told_too_and_those_with_scenes_are_left_alone(space: Space, writes: Writes) -> None:
    writes.plan("pool", [(SceneId("knot"),), (SceneId("planet"),)])
    writes.pod_came("pool", make(space, "plain"))
    writes.pod_came("pool", make(space, "told", scenes="torus"))
    assert (scenes_of(now(space, "plain")), scenes_of(now(space, "told"))) == ("knot", "torus")


def test_a_second_plan_leaves_pods_that_are_still_to_come_theirs(space: Space, writes: Writes) -> None:
    writes.plan("pool", [(SceneId("knot"),), (SceneId("planet"),)])
    writes.pod_came("pool", make(space, "first", SCENES_GATE))
    writes.plan("pool", [(SceneId("torus"),)], to_come=1)
    for name in ("second", "third"):
        writes.pod_came("pool", make(space, name, SCENES_GATE))
    assert [scenes_of(now(space, name)) for name in ("first", "second", "third")] == ["knot", "planet", "torus"]
