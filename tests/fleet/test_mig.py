"""The MIG tables against an enumeration of their own, against NVIDIA's counts and against layouts that mocks invent."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleet.mig import (
    EIGHT_SLICES,
    FOUR_SLICES,
    PARTS,
    Layout,
    MigError,
    MigProfile,
    check_placement,
    find_part,
    fragmentation_table,
    largest_placeable,
    legal_starts,
    occupancy_mask,
    part_of,
)

FIVE_ROLES = ("1g", "2g", "3g", "4g", "7g")
SIX_ROLES = ("1g", "1g-double", "2g", "3g", "4g", "7g")
Placement = tuple[str, int]


def states(layout: Layout, roles: tuple[str, ...]) -> Iterator[tuple[frozenset[Placement], int]]:
    """Every set of placements that do not overlap, with its mask."""
    options = [(name, start, layout.role(name).mask(start)) for name in roles for start in layout.role(name).starts]

    def extend(first: int, chosen: frozenset[Placement], mask: int) -> Iterator[tuple[frozenset[Placement], int]]:
        yield chosen, mask
        for index in range(first, len(options)):
            name, start, bits = options[index]
            if not mask & bits:
                yield from extend(index + 1, chosen | {(name, start)}, mask | bits)

    yield from extend(0, frozenset(), 0)


@pytest.mark.parametrize(
    ("roles", "expected_states", "expected_maximal", "expected_multisets"),
    [(FIVE_ROLES, 298, 19, 14), (SIX_ROLES, 723, 78, 38)],
)
def test_states_and_maximal_layouts(
    roles: tuple[str, ...], expected_states: int, expected_maximal: int, expected_multisets: int
) -> None:
    found = list(states(EIGHT_SLICES, roles))
    maximal = [
        chosen for chosen, mask in found if not any(legal_starts(mask, EIGHT_SLICES.role(name)) for name in roles)
    ]
    assert len(found) == expected_states
    assert len(maximal) == expected_maximal
    assert len({tuple(sorted(name for name, _ in chosen)) for chosen in maximal}) == expected_multisets


def test_memory_alone_decides_compute_and_counts() -> None:
    """No set of placements that fits in memory needs more than seven compute slices or more of a role than allowed."""
    for chosen, _ in states(EIGHT_SLICES, SIX_ROLES):
        roles = [EIGHT_SLICES.role(name) for name, _ in chosen]
        assert sum(role.compute_slices for role in roles) <= 7
        assert all(sum(other is role for other in roles) <= role.at_most for role in roles)


@pytest.mark.parametrize("name", PARTS)
def test_every_state_of_every_part_is_accepted(name: str) -> None:
    part = part_of(name)
    roles = SIX_ROLES if part.layout is EIGHT_SLICES else ("1g", "2g", "4g")
    for chosen, mask in states(part.layout, roles):
        named = [(str(part.profile_of(part.layout.role(role))), start) for role, start in chosen]
        assert occupancy_mask(part.name, named) == mask


@pytest.mark.parametrize(
    ("gpu_model", "profile", "start", "memory_slices"),
    [
        ("NVIDIA H100 80GB HBM3", "3g.40gb", 0, 3),
        ("NVIDIA H100 80GB HBM3", "7g.80gb", 0, 7),
        ("NVIDIA H100 80GB HBM3", "1g.20gb", 1, 1),
        ("NVIDIA H200", "3g.71gb", 4, 3),
        ("NVIDIA H200", "1g.35gb", 6, 1),
        ("NVIDIA B200", "7g.180gb", 0, 7),
        ("NVIDIA B200", "1g.45gb", 3, 1),
    ],
)
def test_placements_of_wrong_mocks_are_refused(gpu_model: str, profile: str, start: int, memory_slices: int) -> None:
    with pytest.raises(MigError, match=r"takes|cannot start"):
        check_placement(gpu_model, profile, start, memory_slices)


def test_true_placements_are_accepted() -> None:
    for profile, start, memory_slices in [("3g.40gb", 4, 4), ("7g.80gb", 0, 8), ("1g.20gb", 6, 2), ("1g.10gb", 6, 1)]:
        check_placement("H100-80", profile, start, memory_slices)


@pytest.mark.parametrize(
    ("slices", "message"),
    [
        ([("3g.40gb", 2)], "cannot start"),
        ([("1g.10gb", 7)], "cannot start"),
        ([("4g.40gb", 4)], "cannot start"),
        ([("3g.40gb", 0), ("1g.10gb", 3)], "overlaps"),
        ([("1g.10gb+me", 0), ("1g.10gb+me", 1)], "at most 1"),
        ([("1g.5gb", 0)], "does not exist on H100-80"),
        ([("banana", 0)], "not valid"),
    ],
)
def test_illegal_layouts_are_refused(slices: list[tuple[str, int]], message: str) -> None:
    with pytest.raises(MigError, match=message):
        occupancy_mask("H100-80", slices)


@pytest.mark.parametrize(
    ("text", "canonical", "resource"),
    [
        ("1g.10gb", "1g.10gb", "nvidia.com/mig-1g.10gb"),
        ("1g.10gb+me", "1g.10gb+me", "nvidia.com/mig-1g.10gb.me"),
        ("1g.10gb.me", "1g.10gb+me", "nvidia.com/mig-1g.10gb.me"),
        ("1g.24gb+me.all", "1g.24gb+me.all", "nvidia.com/mig-1g.24gb.me.all"),
        ("1g.24gb-me", "1g.24gb-me", "nvidia.com/mig-1g.24gb-me"),
    ],
)
def test_profile_spellings(text: str, canonical: str, resource: str) -> None:
    profile = MigProfile.parse(text)
    assert (str(profile), profile.resource) == (canonical, resource)
    assert MigProfile.from_resource(resource) == profile


@pytest.mark.parametrize(
    "text", ["", "1g", "0g.10gb", "8g.10gb", "1g.010gb", "1g.10GB", "1g.10gb+", "1g.10gb ", "a" * 999]
)
def test_bad_profiles_are_refused_briefly(text: str) -> None:
    with pytest.raises(MigError) as refused:
        MigProfile.parse(text)
    assert len(str(refused.value)) < 200


def test_other_resources_are_no_profile() -> None:
    assert MigProfile.from_resource("nvidia.com/gpu") is None
    assert MigProfile.from_resource("cpu") is None


@pytest.mark.parametrize(
    ("product", "part"),
    [
        ("NVIDIA H100 80GB HBM3", "H100-80"),
        ("NVIDIA-H100-80GB-HBM3-MIG-1g.10gb", "H100-80"),
        ("NVIDIA H100 NVL", "H100-94"),
        ("NVIDIA A100-SXM4-40GB", "A100-40"),
        ("NVIDIA-A100-SXM4-40GB-MIG-7g.40gb", "A100-40"),
        ("NVIDIA A100 80GB PCIe", "A100-80"),
        ("NVIDIA GH200 480GB", "H100-96"),
        ("NVIDIA GH200 144G HBM3e", "GH200-144"),
        ("NVIDIA GB200", "GB200-186"),
        ("NVIDIA A30", "A30-24"),
        ("H200-141", "H200-141"),
        ("Tesla T4", None),
        ("A100", None),
    ],
)
def test_product_names(product: str, part: str | None) -> None:
    found = find_part(product)
    assert (found.name if found else None) == part


def test_unknown_gpu_says_what_is_known() -> None:
    with pytest.raises(MigError, match=r"known: .*H100-80"):
        largest_placeable(0, "Tesla T4")


@given(st.integers(0, 255))
def test_largest_placeable_fits_and_nothing_larger_does(mask: int) -> None:
    role = largest_placeable(mask, "H100-80")
    larger = [
        other
        for other in EIGHT_SLICES.roles
        if legal_starts(mask, other) and (role is None or other.memory_slices > role.memory_slices)
    ]
    assert larger == []
    assert role is None or legal_starts(mask, role)


def test_largest_placeable_by_hand() -> None:
    names = [getattr(largest_placeable(mask, "H100-80"), "name", None) for mask in (0, 0b1, 0b10000, 0b01111111, 255)]
    assert names == ["7g", "3g", "4g", None, None]


@given(st.integers(0, 255), st.sampled_from([role.name for role in EIGHT_SLICES.roles]))
def test_fragmentation_of_one_role_is_what_it_cannot_cover(mask: int, name: str) -> None:
    role = EIGHT_SLICES.role(name)
    usable = {
        memory
        for start in role.starts
        if not mask & role.mask(start)
        for memory in range(start, start + role.memory_slices)
    }
    free = {memory for memory in range(8) if not mask >> memory & 1}
    assert fragmentation_table(EIGHT_SLICES, {name: 3.0})[mask] == len(free - usable)


def test_fragmentation_weighs_by_frequency_and_size_squared() -> None:
    table = fragmentation_table(EIGHT_SLICES, {"1g": 0.5, "4g": 0.5})
    # One 1g at 0: slice 7 is lost to 1g (weight 0.5 * 1), all seven free ones to 4g (weight 0.5 * 16).
    assert table[0b1] == pytest.approx((0.5 * 1 * 1 + 0.5 * 16 * 7) / (0.5 * 17))
    # A 1g at 4 leaves the place of the 4g alone: only slices 5, 6 and 7 are lost to it.
    assert table[0b10000] == pytest.approx((0.5 * 1 + 0.5 * 16 * 3) / (0.5 * 17))
    assert not fragmentation_table(EIGHT_SLICES, {}).any()


def test_four_slice_parts() -> None:
    assert len(list(states(FOUR_SLICES, ("1g", "2g", "4g")))) == 26
    assert occupancy_mask("NVIDIA A30", [("2g.12gb", 2), ("1g.6gb", 0)]) == 0b1101
    with pytest.raises(MigError, match="cannot start"):
        occupancy_mask("A30-24", [("2g.12gb", 1)])
