"""Who takes which slice: the digest's word and the pods' together, nobody twice."""

from __future__ import annotations

from dataclasses import replace

import pytest

from fleet.digest import GpuDigest, NodeDigest, SceneCache, Slice
from fleet.mig import MigProfile
from fleet.snapshot import Gpu, Node, Pod, occupancy

ONE_G = MigProfile.parse("1g.10gb")
THREE_G = MigProfile.parse("3g.40gb")
CACHE = SceneCache(0, 0, 0.0, 0.0)


def node(*slices: Slice, healthy: bool = True) -> Node:
    return Node("gpu-1", (Gpu("GPU-1", "H100-80", healthy, slices),))


def pod(uid: str, *profiles: MigProfile, gpus: int = 0) -> Pod:
    return Pod(uid, node="gpu-1", profiles=profiles, gpus=gpus)


def seven(*uids: str) -> Node:
    """Seven 1g slices, the first of them taken by `uids`."""
    return node(*(Slice("1g.10gb", start, True, uids[start] if start < len(uids) else "") for start in range(7)))


@pytest.mark.parametrize(
    ("in_digest", "bound", "departed", "expected_free"),
    [
        ((), (), frozenset(), 7),
        (("a",), (), frozenset(), 6),  # nobody told us of a, and it is there
        ((), ("a",), frozenset(), 6),  # bound, and the digest does not know yet
        (("a",), ("a",), frozenset(), 6),  # both: once
        (("a", "b"), ("a", "c"), frozenset(), 4),
        (("a", "b"), (), frozenset({"a"}), 6),  # deleted, and the digest still names it
        ((), tuple("abcdefghi"), frozenset(), 0),  # more than there are
    ],
)
def test_free_slices(
    in_digest: tuple[str, ...], bound: tuple[str, ...], departed: frozenset[str], expected_free: int
) -> None:
    taken = occupancy(seven(*in_digest), [pod(uid, ONE_G) for uid in bound], departed)
    assert len(taken.free(ONE_G)) == expected_free


def test_a_bound_pod_takes_the_first_free_slice_of_its_profile() -> None:
    mixed = node(Slice("1g.10gb", 0, True, "x"), Slice("1g.10gb", 1), Slice("3g.40gb", 4))
    taken = occupancy(mixed, [pod("a", ONE_G), pod("b", THREE_G)])
    assert taken.holders == ("x", "a", "b")


def test_a_pod_of_several_slices_is_counted_slice_by_slice() -> None:
    taken = occupancy(seven("a"), [pod("a", ONE_G, ONE_G, ONE_G)])
    assert taken.holders == ("a", "a", "a", "", "", "", "")


def test_unhealthy_slices_and_gpus_are_not_free() -> None:
    assert len(occupancy(node(Slice("1g.10gb", 0, False), Slice("1g.10gb", 1)), []).free(ONE_G)) == 1
    assert occupancy(node(Slice("1g.10gb", 0), healthy=False), []).free(ONE_G) == []


def test_whole_gpus() -> None:
    whole = Node("gpu-1", (Gpu("A", "H100-80"), Gpu("B", "H100-80"), Gpu("C", "H100-80", healthy=False)))
    taken = occupancy(whole, [pod("a", gpus=1)])
    assert (taken.whole_gpus, taken.whole_gpus_used, taken.single) == (2, 1, None)


def test_strategy_single_gives_slices_as_gpus() -> None:
    taken = occupancy(seven(), [pod("a", gpus=2)])
    assert taken.single == ONE_G
    assert len(taken.free(ONE_G)) == 5


def test_an_unknown_profile_in_a_digest_is_nobodys() -> None:
    taken = occupancy(node(Slice("banana", 0), Slice("1g.10gb", 1)), [pod("a", ONE_G)])
    assert taken.holders == ("", "a")


def test_a_node_from_its_digest() -> None:
    digest = NodeDigest("self", 3, 1.0, CACHE, (GpuDigest("GPU-1", "H100-80", slices=(Slice("1g.10gb", 0),)),))
    made = Node.from_digest("gpu-1", digest, 12.0)
    assert (made.name, made.seen_s, made.gpus[0].slices) == ("gpu-1", 12.0, (Slice("1g.10gb", 0),))


def test_a_pod_holds_only_while_bound_and_unfinished() -> None:
    bound = pod("a", ONE_G)
    assert bound.holds
    assert not replace(bound, node="").holds
    assert not replace(bound, finished=True).holds
