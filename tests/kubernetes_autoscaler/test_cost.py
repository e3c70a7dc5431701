"""Every second of every slice is somebody's or idle, whatever comes and goes."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autoscaler.cost import CostBook, Holder, moment_of, slices_of
from fleet.labels import POOL_LABEL
from kube.objects import Container, Meta, Node, NodeStatus, Pod, PodSpec, PodStatus, Resources
from splatfleet.autoscaler_kubernetes import parse_prices
from splatfleet.settings import UsageError

PROFILES = {"nvidia.com/mig-1g.10gb": 1, "nvidia.com/mig-3g.40gb": 3, "nvidia.com/gpu": 7}


def node(name: str, allocatable: dict[str, str], kind: str = "") -> Node:
    labels = {"splatfleet.io/capacity-type": kind} if kind else {}
    return Node(Meta(name, labels=labels), status=NodeStatus(allocatable=dict(allocatable)))


def pod(name: str, place: str, asked: dict[str, str], pool: str = "renderer", phase: str = "Running") -> Pod:
    resources = Resources(requests=dict(asked), limits=dict(asked))
    spec = PodSpec(node_name=place, containers=[Container(resources=resources)])
    return Pod(Meta(name, namespace=f"ns-{pool}", uid=name, labels={POOL_LABEL: pool}), spec, PodStatus(phase=phase))


def test_slices_of_every_kind() -> None:
    assert slices_of({"nvidia.com/gpu": "2", "nvidia.com/mig-3g.40gb": 1, "cpu": "9", "nvidia.com/mig-odd": "4"}) == 17


def test_pools_namespaces_and_capacity_types_are_kept_apart() -> None:
    nodes = [node("a", {"nvidia.com/mig-1g.10gb": "7"}, "spot"), node("b", {"nvidia.com/gpu": "1"}, "reserved")]
    one = {"nvidia.com/mig-1g.10gb": "1"}
    pods = [pod("p1", "a", one), pod("p2", "a", one, "batch"), pod("p3", "", one), pod("p4", "a", one, phase="Failed")]
    moment = moment_of(nodes, pods)
    assert moment == {
        Holder("renderer", "ns-renderer", "spot"): 1.0,
        Holder("batch", "ns-batch", "spot"): 1.0,
        Holder("", "", "spot"): 5.0,
        Holder("", "", "reserved"): 7.0,
    }
    book = CostBook({"spot": 0.36})
    book.advance(100.0, moment)
    book.advance(110.0, moment)
    assert book.slice_seconds[Holder("", "", "reserved")] == 70.0
    assert book.money() == pytest.approx(
        {
            Holder("renderer", "ns-renderer", "spot"): 0.001,
            Holder("batch", "ns-batch", "spot"): 0.001,
            Holder("", "", "spot"): 0.005,
        }
    )


def test_a_gap_and_a_time_of_standing_by_are_nobodys() -> None:
    moment = moment_of([node("a", {"nvidia.com/gpu": "1"})], [])
    book = CostBook()
    book.advance(0.0, moment)
    book.advance(500.0, moment)
    assert book.slice_seconds == {}
    book.advance(501.0, moment)
    book.pause()
    book.advance(510.0, moment)
    book.advance(512.0, moment)
    assert sum(book.slice_seconds.values()) == 3 * 7.0


resource = st.sampled_from(sorted(PROFILES))
step = st.tuples(
    st.floats(0.1, 100.0),
    st.lists(st.tuples(resource, st.integers(0, 7), st.sampled_from(("", "spot", "reserved"))), max_size=4),
    st.lists(st.tuples(st.integers(0, 4), resource, st.sampled_from(("interactive", "batch"))), max_size=12),
)


@settings(deadline=None)
@given(st.lists(step, max_size=8))
def test_allocated_and_idle_sum_to_the_nodes_gpu_time(steps: list) -> None:  # type: ignore[type-arg]
    """Nodes join, leave and change; pods come, go, and stay on nodes that offer nothing any more."""
    book, now_s, expected, before = CostBook(), 0.0, 0.0, 0.0
    for passed_s, offered, asked in steps:
        now_s += passed_s
        expected += before * passed_s
        nodes = [node(f"n{i}", {name: str(count)}, kind) for i, (name, count, kind) in enumerate(offered)]
        pods = [pod(f"p{i}", f"n{place}", {name: "1"}, pool) for i, (place, name, pool) in enumerate(asked)]
        book.advance(now_s, moment_of(nodes, pods))
        before = sum(
            max(
                PROFILES[name] * count,
                sum(PROFILES[asked_name] for place, asked_name, _ in asked if place == i),
            )
            for i, (name, count, _) in enumerate(offered)
        )
        assert sum(book.slice_seconds.values()) == pytest.approx(expected, abs=1e-9)


def test_prices() -> None:
    assert parse_prices(["spot=0.12", "reserved=0"]) == {"spot": 0.12, "reserved": 0.0}
    for wrong in ("spot", "=1", "spot=-1", "spot=nan", "spot=inf"):
        with pytest.raises(UsageError, match="--prices"):
            parse_prices([wrong])
