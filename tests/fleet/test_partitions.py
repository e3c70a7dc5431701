"""First fit over devices that overlap, against a search that knows nothing of it."""

from __future__ import annotations

from itertools import product

from hypothesis import given, settings
from hypothesis import strategies as st

from fleet.mig import EIGHT_SLICES, MigProfile, part_of
from fleet.partitions import Cutting, Partition, Partitioned, most_of

PART = part_of("H100-80")


def h100(holders: dict[str, str] | None = None, sick: tuple[str, ...] = ()) -> Partitioned:
    """The devices of an H100 by name, as its driver publishes them: the whole GPU, then each slice at each start."""
    named = [("gpu-0", "", 0, 8, 7)]
    for role in EIGHT_SLICES.roles:
        profile = PART.profile_of(role)
        if profile is not None and role.name != "1g+me":
            text = str(profile)
            named += [
                (f"gpu-0-mig-{text}-{role.profile_id}-{start}", text, start, role.memory_slices, role.compute_slices)
                for start in role.starts
            ]
    devices = []
    for name, profile, start, size, compute in sorted(named):
        takes = tuple(float(start <= number < start + size) for number in range(8))
        serves = (MigProfile.parse(profile).resource,) if profile else ("nvidia.com/gpu",)
        serves += ("any",) if size >= 2 else ()
        holder = (holders or {}).get(name, "")
        devices.append(Partition(name, profile, start, size, serves, (*takes, compute), name not in sick, holder))
    return Partitioned((*(1.0,) * 8, 7.0), tuple(devices))


def names(cut: Cutting, given: list[tuple[int, int]] | None) -> list[str] | None:
    return None if given is None else [f"{gpu}:{cut.gpus[gpu].devices[place].name}" for gpu, place in given]


def test_the_first_device_in_the_order_of_publication_is_given() -> None:
    cut = Cutting([h100(), h100()])
    assert names(cut, cut.first_fit(["nvidia.com/mig-1g.10gb"], "a")) == ["0:gpu-0-mig-1g.10gb-19-0"]
    assert names(cut, cut.first_fit(["nvidia.com/mig-3g.40gb"], "b")) == ["0:gpu-0-mig-3g.40gb-9-4"]
    assert names(cut, cut.first_fit(["nvidia.com/gpu"], "c")) == ["1:gpu-0"]
    assert cut.mask(0) == 0b11110001
    assert cut.first_fit(["nvidia.com/mig-4g.40gb"], "d") is None
    assert set(cut.holders.values()) == {"a", "b", "c"}


def test_another_device_is_tried_where_the_first_leaves_no_room_for_the_rest() -> None:
    cut = Cutting([h100(), h100(holders={"gpu-0-mig-3g.40gb-9-0": "other", "gpu-0-mig-3g.40gb-9-4": "other"})])
    # The whole GPU is the first that serves "any", and leaves nothing for the second.
    assert names(cut, cut.first_fit(["any", "any"], "a")) == ["0:gpu-0-mig-1g.20gb-15-0", "0:gpu-0-mig-1g.20gb-15-2"]
    assert cut.first_fit(["any"] * 3, "b") is None


def test_sick_devices_and_those_that_others_hold_are_passed_over() -> None:
    cut = Cutting([h100({"gpu-0-mig-1g.10gb-19-0": "b"}, sick=("gpu-0-mig-1g.10gb-19-1",))])
    assert names(cut, cut.first_fit(["nvidia.com/mig-1g.10gb"], "a")) == ["0:gpu-0-mig-1g.10gb-19-2"]
    assert Cutting([h100().sick()]).first_fit(["nvidia.com/mig-1g.10gb"], "a") is None


def test_what_is_taken_back_is_free_again() -> None:
    cut = Cutting([h100()])
    (place,) = cut.first_fit(["nvidia.com/gpu"], "a") or []
    assert cut.most("nvidia.com/mig-1g.10gb") == 0
    cut.take_back(*place)
    assert cut.most("nvidia.com/mig-1g.10gb") == 7
    assert cut.most("any") == 4  # the small ones, not the whole GPU that comes first


def searched(cut: Cutting, asks: list[str]) -> list[str] | None:
    """The first of all ways to give devices, in the order of their product; slow on purpose."""
    every = [(gpu, place) for gpu, found in enumerate(cut.gpus) for place in range(len(found.devices))]
    for way in product(every, repeat=len(asks)):
        given: list[tuple[int, int]] = []
        for ask, (gpu, place) in zip(asks, way, strict=True):
            if ask not in cut.gpus[gpu].devices[place].serves or not cut.is_free(gpu, place):
                break
            cut.give(gpu, place, "searched")
            given.append((gpu, place))
        for one in given:
            cut.take_back(*one)
        if len(given) == len(asks):
            return names(cut, list(way))
    return None


KINDS = ["nvidia.com/mig-1g.10gb", "nvidia.com/mig-2g.20gb", "nvidia.com/mig-3g.40gb", "nvidia.com/gpu", "any"]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from(KINDS), max_size=6), st.lists(st.sampled_from(KINDS), min_size=1, max_size=2))
def test_first_fit_is_the_first_of_all_ways(before: list[str], asks: list[str]) -> None:
    cut = Cutting([h100(), h100()])
    for number, ask in enumerate(before):
        cut.first_fit([ask], f"pod-{number}")
    assert names(cut, cut.first_fit(asks, "asked")) == searched(Cutting([_as_left(cut, gpu) for gpu in (0, 1)]), asks)


def _as_left(cut: Cutting, gpu: int) -> Partitioned:
    held = {place: holder for (at, place), holder in cut.holders.items() if at == gpu and holder != "asked"}
    devices = [
        Partition(d.name, d.profile, d.start, d.memory_slices, d.serves, d.takes, d.healthy, held.get(place, ""))
        for place, d in enumerate(cut.gpus[gpu].devices)
    ]
    return Partitioned(cut.gpus[gpu].counters, tuple(devices))


def test_most_counts_sick_devices_only_where_asked() -> None:
    gpu = h100(sick=("gpu-0-mig-3g.40gb-9-4",))
    assert most_of(gpu, "nvidia.com/mig-3g.40gb", gpu.counters) == 1
    assert most_of(gpu, "nvidia.com/mig-3g.40gb", gpu.counters, sick_too=True) == 2
