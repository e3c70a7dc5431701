"""MIG slices: profiles, the legal placements of every part, and what a placement leaves for others.

A GPU is a row of memory slices: eight on the large parts, four on the small ones. A slice that exists covers
`start .. start + memory_slices`, so one byte says which memory is taken, and a table of 256 entries answers every
question about it. Starts and sizes are those of `nvmlGpuInstancePlacement_t`; memory that does not overlap already
implies no more than seven compute slices, so the byte alone decides.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
from numpy.typing import NDArray

from fleet.labels import MIG_RESOURCE_PREFIX

_PROFILE = re.compile(r"([1-7])g\.([1-9][0-9]{0,2})gb((?:[+.-](?:me\.all|me|gfx))*)")


class MigError(ValueError):
    """A profile, a part or a placement that no GPU has; says what it was and what would be valid."""


@dataclass(frozen=True, slots=True, order=True)
class MigProfile:
    """The slice that a pod asks for, `1g.10gb`; `attributes` is `` or, say, `+me` (with the media engines)."""

    compute_slices: int
    memory_gb: int
    attributes: str = ""

    @classmethod
    def parse(cls, text: str) -> MigProfile:
        """Parse `1g.10gb`, `1g.10gb+me`, or the resource's spelling `1g.10gb.me`; raises MigError."""
        match = _PROFILE.fullmatch(text)
        if match is None:
            raise MigError(f"MIG profile {text[:60]!r} is not valid: expected for example 1g.10gb or 1g.10gb+me")
        # The device plugin writes `+` as `.`, because a resource name may not hold a `+`.
        attributes = re.sub(r"^\.", "+", re.sub(r"\.(?=me|gfx)", "+", match[3]))
        return cls(int(match[1]), int(match[2]), attributes)

    @classmethod
    def from_resource(cls, name: str) -> MigProfile | None:
        """The profile of a resource `nvidia.com/mig-1g.10gb`; None for any other resource. Raises MigError."""
        if not name.startswith(MIG_RESOURCE_PREFIX):
            return None
        return cls.parse(name.removeprefix(MIG_RESOURCE_PREFIX))

    @property
    def resource(self) -> str:
        """The extended resource of the device plugin, `nvidia.com/mig-1g.10gb`."""
        return MIG_RESOURCE_PREFIX + str(self).replace("+", ".")

    def __str__(self) -> str:
        return f"{self.compute_slices}g.{self.memory_gb}gb{self.attributes}"


@dataclass(frozen=True, slots=True)
class Role:
    """What a profile is on its GPU, whatever the part calls it: sizes in slices and where it may start."""

    name: str  # 1g, 1g+me, 1g-double, 2g, 3g, 4g, 7g
    profile_id: int  # NVML's GPU instance profile
    compute_slices: int
    memory_slices: int
    starts: tuple[int, ...]
    at_most: int

    def mask(self, start: int) -> int:
        """The memory slices that it takes from `start` on, as bits."""
        return ((1 << self.memory_slices) - 1) << start


@dataclass(frozen=True)
class Layout:
    """The roles of a family of parts and, per occupancy mask, what is still possible."""

    name: str
    memory_slices: int
    roles: tuple[Role, ...]

    @property
    def masks(self) -> int:
        """How many occupancy masks there are: 256 for eight memory slices."""
        return 1 << self.memory_slices

    @cached_property
    def stranded(self) -> NDArray[np.uint8]:
        """[roles, masks]: free memory slices that no free legal placement of the role can cover."""
        table = np.zeros((len(self.roles), self.masks), np.uint8)
        for row, role in enumerate(self.roles):
            for mask in range(self.masks):
                covered = 0
                for start in legal_starts(mask, role):
                    covered |= role.mask(start)
                table[row, mask] = (self.masks - 1 & ~mask & ~covered).bit_count()
        return table

    @cached_property
    def places(self) -> NDArray[np.uint8]:
        """[roles, masks]: how many slices of the role still fit; legal starts of one role never overlap."""
        return np.array(
            [[len(legal_starts(mask, role)) for mask in range(self.masks)] for role in self.roles], np.uint8
        )

    @cached_property
    def largest(self) -> tuple[Role | None, ...]:
        """[masks]: the largest role that still has a free placement, by memory, then by compute slices."""
        by_size = sorted(self.roles, key=lambda role: (-role.memory_slices, -role.compute_slices, role.name != "1g"))
        return tuple(next((role for role in by_size if legal_starts(mask, role)), None) for mask in range(self.masks))

    def role(self, name: str) -> Role:
        return next(role for role in self.roles if role.name == name)


def legal_starts(mask: int, role: Role) -> tuple[int, ...]:
    """The starts at which `role` still fits beside the memory slices that are set in `mask`."""
    return tuple(start for start in role.starts if not mask & role.mask(start))


# Starts of A100 and H100 as their drivers list them; those of B200, GB200 and B300 are inferred from equal profile
# ids, counts and memory fractions (NVIDIA MIG User Guide, "Supported MIG Profiles").
EIGHT_SLICES = Layout(
    "eight-slices",
    8,
    (
        Role("1g", 19, 1, 1, (0, 1, 2, 3, 4, 5, 6), 7),
        Role("1g+me", 20, 1, 1, (0, 1, 2, 3, 4, 5, 6), 1),
        Role("1g-double", 15, 1, 2, (0, 2, 4, 6), 4),
        Role("2g", 14, 2, 2, (0, 2, 4), 3),
        Role("3g", 9, 3, 4, (0, 4), 2),
        Role("4g", 5, 4, 4, (0,), 1),
        Role("7g", 0, 7, 8, (0,), 1),
    ),
)
FOUR_SLICES = Layout(
    "four-slices",
    4,
    (
        Role("1g", 14, 1, 1, (0, 1, 2, 3), 4),
        Role("1g+me", 21, 1, 1, (0, 1, 2, 3), 1),
        Role("2g", 5, 2, 2, (0, 2), 2),
        Role("2g+me", 6, 2, 2, (0, 2), 1),
        Role("4g", 0, 4, 4, (0,), 1),
    ),
)


@dataclass(frozen=True)
class Part:
    """One GPU model: its layout and what it calls each role."""

    name: str
    layout: Layout
    profiles: Mapping[str, tuple[str, ...]]  # role -> names; the first is today's, the rest are older drivers'

    @cached_property
    def _roles(self) -> dict[MigProfile, Role]:
        return {
            MigProfile.parse(name): self.layout.role(role) for role, names in self.profiles.items() for name in names
        }

    def role_of(self, profile: MigProfile) -> Role | None:
        """What `profile` is on this part; None where the part has no such profile."""
        return self._roles.get(profile)

    def profile_of(self, role: Role) -> MigProfile | None:
        """This part's name for `role`; None where it has none."""
        names = self.profiles.get(role.name)
        return MigProfile.parse(names[0]) if names else None


def _eight(name: str, one: str, double: str, two: str, half: str, whole: str) -> Part:
    """A part whose names follow the pattern; `a|b` gives an older driver's name after today's."""
    split = {"1g": ("1g", one), "1g-double": ("1g", double), "2g": ("2g", two), "3g": ("3g", half)}
    split |= {"4g": ("4g", half), "7g": ("7g", whole)}
    profiles = {role: tuple(f"{lead}.{size}gb" for size in sizes.split("|")) for role, (lead, sizes) in split.items()}
    profiles["1g+me"] = tuple(f"{text}+me" for text in profiles["1g"])
    return Part(name, EIGHT_SLICES, profiles)


def _four(name: str, one: str, two: str, four: str) -> Part:
    profiles = {"1g": (f"1g.{one}gb",), "2g": (f"2g.{two}gb",), "4g": (f"4g.{four}gb",)}
    profiles |= {"1g+me": (f"1g.{one}gb+me",), "2g+me": (f"2g.{two}gb+me",)}
    return Part(name, FOUR_SLICES, profiles)


# Names: NVIDIA MIG User Guide and driver listings. Memory names move with the driver, so the placement follows the
# role and never the name. The whole-GPU name of GB200 is inferred from the pattern.
PARTS: dict[str, Part] = {
    part.name: part
    for part in (
        _eight("A100-40", "5", "10", "10", "20", "40"),
        _eight("A100-80", "10", "20", "20", "40", "80"),
        _eight("H100-80", "10", "20", "20", "40", "80"),
        _eight("H100-94", "12", "24", "24", "47", "94"),
        _eight("H100-96", "12", "24", "24", "48", "96"),
        _eight("H200-141", "18", "35", "35", "71", "141"),
        _eight("GH200-144", "18", "36", "36", "72", "144"),
        _eight("B200-180", "23", "45", "45", "90", "180"),
        _eight("GB200-186", "23|24", "47", "47", "93", "186"),
        _eight("B300-269", "34", "67", "67", "135", "269"),
        _four("A30-24", "6", "12", "24"),
        _four("RTX-PRO-6000-96", "24", "48", "96"),
    )
}
# Product names as NVML and GPU Feature Discovery print them; the first that matches wins. GH200's "480GB" is the
# memory of its CPU.
_ALIASES: tuple[tuple[str, str], ...] = (
    (r"RTX-PRO-6000", "RTX-PRO-6000-96"),
    (r"GB200", "GB200-186"),
    (r"GH200.*144", "GH200-144"),
    (r"GH200", "H100-96"),
    (r"B300", "B300-269"),
    (r"B200", "B200-180"),
    (r"H200", "H200-141"),
    (r"H100.*(NVL|94)", "H100-94"),
    (r"H100.*96|\bH20\b", "H100-96"),
    (r"H100(?!.*64)", "H100-80"),
    (r"A100.*80", "A100-80"),
    (r"A100.*40", "A100-40"),
    (r"\bA30\b", "A30-24"),
)


@lru_cache(1024)  # texts of others: bounded
def find_part(gpu_model: str) -> Part | None:
    """The part of `H100-80`, of `NVIDIA H100 80GB HBM3` or of a product label; None where it is not known."""
    if gpu_model in PARTS:
        return PARTS[gpu_model]
    # GPU Feature Discovery appends `-MIG-1g.10gb` (strategy single), which would read as a memory size.
    folded = re.sub(r"-MIG-.*$", "", re.sub(r"[\s_]+", "-", gpu_model.strip())).upper()
    return next((PARTS[name] for pattern, name in _ALIASES if re.search(pattern, folded)), None)


def part_of(gpu_model: str) -> Part:
    """Like `find_part`, but raises MigError, naming what is known."""
    part = find_part(gpu_model)
    if part is None:
        raise MigError(f"GPU model {gpu_model[:60]!r} has no MIG layout here; known: {', '.join(PARTS)}")
    return part


def occupancy_mask(gpu_model: str, slices: Iterable[tuple[str, int]]) -> int:
    """The memory slices that (profile, start) pairs take, as bits.

    Raises MigError where the layout is one that no such GPU can have: an unknown profile, an illegal start, an
    overlap, or more of a role than the part allows.
    """
    part = part_of(gpu_model)
    mask = 0
    count: dict[str, int] = {}
    for profile, start in slices:
        role = part.role_of(MigProfile.parse(profile))
        if role is None:
            known = ", ".join(names[0] for names in part.profiles.values())
            raise MigError(f"profile {profile} does not exist on {part.name}; it has {known}")
        if start not in role.starts:
            raise MigError(f"profile {profile} cannot start at memory slice {start} on {part.name}: {role.starts}")
        if mask & role.mask(start):
            raise MigError(f"profile {profile} at memory slice {start} overlaps another slice of the same GPU")
        count[role.name] = count.get(role.name, 0) + 1
        if count[role.name] > role.at_most:
            raise MigError(f"profile {profile} exists at most {role.at_most} times on {part.name}")
        mask |= role.mask(start)
    return mask


def check_placement(gpu_model: str, profile: str, start: int, memory_slices: int) -> None:
    """Raise MigError where a placement that a driver or a mock lists is none that the hardware has.

    Widely copied mocks list a 3g of three memory slices, a 7g of seven and a double-memory 1g of one.
    """
    occupancy_mask(gpu_model, [(profile, start)])
    role = part_of(gpu_model).role_of(MigProfile.parse(profile))
    if role is not None and role.memory_slices != memory_slices:
        expected = f"{role.memory_slices} memory slices"
        raise MigError(f"profile {profile} takes {expected} on {gpu_model}, not {memory_slices}")


def largest_placeable(mask: int, gpu_model: str) -> Role | None:
    """The largest role that still fits beside `mask`, by memory, then by compute slices; None where none does.

    Its size is `.memory_slices`, its name on the part `part_of(gpu_model).profile_of(role)`. Raises MigError.
    """
    return part_of(gpu_model).layout.largest[mask]


def fragmentation_table(layout: Layout, frequency: Mapping[str, float]) -> NDArray[np.float64]:
    """[masks]: memory slices (0 to 8) that are free, yet of no use to the demand, by occupancy mask.

    F(mask) = sum over roles of w * stranded(role, mask) / sum of w, with w = frequency * memory_slices^2: the measure
    of FGD (Weng et al., USENIX ATC 2023) weighted by size squared, so that rare large requests are not starved.
    `frequency` maps role names to their share of requests; where it names none, F is 0.
    """
    weights = np.array([max(0.0, frequency.get(role.name, 0.0)) * role.memory_slices**2 for role in layout.roles])
    total = float(weights.sum())
    if total <= 0.0:
        return np.zeros(layout.masks)
    fragmentation: NDArray[np.float64] = (weights / total) @ layout.stranded.astype(np.float64)
    return fragmentation
