"""The routing core: stories with times, and properties of the hash."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from renderer.gateway.rendezvous import choose, load_bound, preference
from renderer.gateway.routing import Limits, Pod, QueueFull, Router, Ticket

uids = st.lists(st.text("abcdef0123456789", min_size=3, max_size=8), min_size=2, max_size=12, unique=True)
scenes = st.lists(st.text("pqrstuvw", min_size=1, max_size=6), min_size=1, max_size=30, unique=True)


class Story:
    """A router with pods by short descriptions, and tickets by number."""

    def __init__(self, limits: Limits | None = None, **resident: str) -> None:
        """`a="robot,garden"` is a pod `a` on node `node-a` that holds both, 100 bytes each of 1000."""
        self.router = Router(limits or Limits())
        self.pods = {uid: Pod(uid, f"node-{uid}", True, 1000) for uid in resident}
        self.router.set_pods(self.pods.values())
        for uid, text in resident.items():
            self.router.set_resident(uid, {scene: 100 for scene in text.split(",") if scene}, 0.0)
        self.numbers = 0

    def arrive(self, scene: str, now_s: float = 0.0, count: int = 1) -> list[Ticket]:
        tickets = []
        for _ in range(count):
            self.numbers += 1
            tickets.append(Ticket(self.numbers, scene, now_s))
            self.router.arrive(tickets[-1])
        return tickets

    def set_usable(self, uid: str, usable: bool) -> None:
        self.pods[uid] = Pod(uid, f"node-{uid}", usable, 1000)
        self.router.set_pods(self.pods.values())

    def hands(self, now_s: float = 0.0) -> list[tuple[int, str]]:
        return [(ticket.number, uid) for ticket, uid in self.router.assign(now_s).hands]

    def warms(self, now_s: float = 0.0) -> list[tuple[str, str]]:
        return self.router.assign(now_s).warms


@given(names=uids, asked=scenes)
def test_a_pod_that_leaves_moves_only_its_own_scenes(names: list[str], asked: list[str]) -> None:
    gone = names[0]
    for scene in asked:
        before, after = preference(scene, names), preference(scene, names[1:])
        assert [uid for uid in before if uid != gone] == after


def test_scenes_spread_evenly_over_pods() -> None:
    names = [f"pod-{i}" for i in range(8)]
    first = Counter(preference(f"scene-{i}", names)[0] for i in range(4000))
    assert len(first) == 8
    assert max(first.values()) < 1.25 * 4000 / 8


@given(names=uids, steps=st.lists(st.tuples(st.sampled_from("xyz"), st.integers(0, 11)), max_size=60))
def test_no_pod_takes_more_than_its_bound(names: list[str], steps: list[tuple[str, int]]) -> None:
    in_flight = dict.fromkeys(names, 0)
    for scene, ends in steps:
        bound = load_bound(sum(in_flight.values()), len(names))
        uid = choose(scene, in_flight, limit=100)
        assert uid is not None
        assert in_flight[uid] < bound
        in_flight[uid] += 1
        ending = names[ends % len(names)]
        in_flight[ending] = max(0, in_flight[ending] - 1)


def test_an_idle_copy_beats_the_preferred_busy_one() -> None:
    first, second = preference("robot", ["a", "b"])
    story = Story(a="robot", b="robot")
    story.arrive("robot", count=3)
    assert [uid for _, uid in story.hands()] == [first, second, first]


def test_only_so_many_are_handed_over_and_the_rest_wait_in_order() -> None:
    story = Story(a="robot")
    story.arrive("robot", count=4)
    assert story.hands() == [(1, "a"), (2, "a")]
    assert story.router.waiting == 2
    assert story.hands() == []
    story.router.release("a")
    assert story.hands() == [(3, "a")]


def test_a_new_pod_relieves_at_once() -> None:
    story = Story(a="robot")
    story.arrive("robot", count=4)
    story.hands()
    story.pods["b"] = Pod("b", "node-b", True, 1000)
    story.router.set_pods(story.pods.values())
    story.router.set_resident("b", {"robot": 100}, 0.0)
    assert story.hands() == [(3, "b"), (4, "b")]


def test_a_cold_scene_at_the_head_blocks_nobody() -> None:
    story = Story(a="robot")
    story.arrive("garden")
    story.arrive("robot")
    step = story.router.assign(0.0)
    assert [(ticket.number, uid) for ticket, uid in step.hands] == [(2, "a")]
    assert step.warms == [("garden", "a")]
    assert story.warms() == []  # one load is enough
    story.router.warm_ended("a", "garden", 1.0, resident=True)
    assert story.hands() == [(1, "a")]


def test_the_oldest_request_goes_first_across_scenes() -> None:
    story = Story(a="robot,garden")
    for scene in ("garden", "robot", "garden", "robot"):
        story.arrive(scene)
    assert story.hands() == [(1, "a"), (2, "a")]


@pytest.mark.parametrize(("arrives", "cold"), [("robot", "none"), ("garden", "scene")])
def test_what_a_request_met(arrives: str, cold: str) -> None:
    story = Story(a="robot")
    assert story.router.arrive(Ticket(1, arrives, 0.0)) == cold
    story.set_usable("a", False)
    assert story.router.arrive(Ticket(2, arrives, 0.0)) == "pod"


def test_cold_scenes_go_to_the_disk_first_then_to_room_then_to_the_emptiest() -> None:
    story = Story(a="robot", b="", c="robot,logo")
    story.router.set_on_disk("node-c", ["garden"])
    story.arrive("garden")
    assert story.warms() == [("garden", "c")]
    story.arrive("statue")
    assert story.warms() == [("statue", "b")]


def test_a_full_pod_is_asked_only_where_no_other_has_room() -> None:
    router = Router(Limits(), {"big": 500})
    router.set_pods([Pod("full", "n", True, 1000), Pod("roomy", "n", True, 700)])
    router.set_resident("full", {"robot": 600}, 0.0)
    router.arrive(Ticket(1, "big", 0.0))
    assert router.assign(0.0).warms == [("big", "roomy")]


def test_a_failed_load_is_tried_elsewhere_then_given_up_then_tried_again() -> None:
    story = Story(a="", b="")
    (ticket,) = story.arrive("garden")
    ((_, first),) = story.warms()
    story.router.warm_ended(first, "garden", 1.0, resident=False)
    ((_, second),) = story.warms(1.0)
    assert {first, second} == {"a", "b"}
    story.router.warm_ended(second, "garden", 2.0, resident=False)
    assert story.router.assign(2.0).hopeless == [ticket]
    assert story.router.waiting == 0
    story.arrive("garden", 8.0)
    assert len(story.warms(8.0)) == 1


def test_nothing_is_given_up_while_no_pod_is_usable() -> None:
    story = Story(a="robot")
    story.set_usable("a", False)
    story.arrive("robot", count=2)
    step = story.router.assign(100.0)
    assert (step.hands, step.warms, step.hopeless) == ([], [], [])
    story.set_usable("a", True)
    assert story.hands(101.0) == [(1, "a"), (2, "a")]


def test_a_busy_scene_spills_after_a_while_and_only_to_an_idle_pod() -> None:
    story = Story(Limits(spill_pending=3, spill_wait_s=0.15), a="robot", b="garden")
    story.arrive("robot", 0.0, count=4)
    story.arrive("garden", 0.0)
    assert len(story.hands(0.0)) == 3
    assert story.warms(0.1) == []  # not yet
    assert story.warms(0.2) == []  # b renders
    story.router.release("b")
    assert story.warms(0.2) == [("robot", "b")]
    story.router.warm_ended("b", "robot", 0.5, resident=True)
    assert story.hands(0.5) == [(3, "b"), (4, "b")]


def test_a_long_queue_spills_at_once_but_evicts_only_when_it_is_twice_as_long() -> None:
    limits = Limits(spill_pending=3)
    router = Router(limits)
    router.set_pods([Pod("a", "n", True, 1000), Pod("b", "n", True, 1000)])
    router.set_resident("a", {"robot": 300}, 0.0)
    router.set_resident("b", {"garden": 900}, 0.0)
    for number in range(2 + 6):
        router.arrive(Ticket(number, "robot", 0.0))
    assert router.assign(0.0).warms == []
    router.arrive(Ticket(9, "robot", 0.0))
    assert router.assign(0.0).warms == [("robot", "b")]


def test_a_retry_keeps_its_place_and_avoids_the_pod_that_failed() -> None:
    story = Story(Limits(max_in_flight_per_pod=1), a="robot", b="robot")
    (first, second, third) = story.arrive("robot", count=3)
    given_to = dict(story.hands())
    first.avoid = given_to[first.number]
    story.router.release(first.avoid)
    story.router.come_back(first)
    assert story.hands() == [(third.number, first.avoid)]  # first waits for the other pod
    story.router.release(given_to[second.number])
    assert story.hands() == [(first.number, given_to[second.number])]


def test_a_retry_goes_to_another_node_where_one_has_the_scene() -> None:
    """The pod may have failed because its node is gone, and its neighbours with it."""
    for ticket_number in range(20):
        router = Router(Limits())
        router.set_pods([Pod("a", "one", True, 1000), Pod("b", "one", True, 1000), Pod("c", "two", True, 1000)])
        for uid in "abc":
            router.set_resident(uid, {"robot": 100}, 0.0)
        router.arrive(Ticket(ticket_number, "robot", 0.0, avoid="a"))
        assert [uid for _, uid in router.assign(0.0).hands] == ["c"]
    router.set_pods([Pod("a", "one", True, 1000), Pod("b", "one", True, 1000)])
    router.arrive(Ticket(20, "robot", 0.0, avoid="a"))
    assert [uid for _, uid in router.assign(0.0).hands] == ["b"]


def test_a_retry_whose_only_copy_failed_gets_another_copy() -> None:
    story = Story(a="robot", b="")
    (ticket,) = story.arrive("robot")
    assert story.hands() == [(1, "a")]
    ticket.avoid = "a"
    story.router.release("a")
    story.router.come_back(ticket)
    step = story.router.assign(0.0)
    assert (step.hands, step.warms) == ([], [("robot", "b")])


def test_a_scrape_that_was_asked_before_an_answer_does_not_undo_it() -> None:
    story = Story(a="robot")
    story.router.learn_resident("a", "garden", now_s=5.0)
    story.router.set_resident("a", {"robot": 100}, asked_s=4.9)
    assert story.router.knows("garden")
    story.router.set_resident("a", {"robot": 100}, asked_s=5.9)
    assert not story.router.knows("garden")


def test_the_queue_has_an_end_and_forgets_who_left() -> None:
    story = Story(Limits(max_pending=2))
    first, _ = story.arrive("robot", count=2)
    with pytest.raises(QueueFull):
        story.arrive("robot")
    story.router.abandon(first)
    story.router.abandon(first)
    assert story.router.waiting == 1
    story.arrive("robot")
    assert len(story.router.drop_scene("robot")) == 2
    assert (story.router.waiting, story.router.pending_by_scene) == (0, {})


steps = st.lists(
    st.tuples(
        st.sampled_from(["arrive", "release", "warmed", "failed", "down", "up", "abandon"]),
        st.integers(0, 3),
        st.sampled_from(["robot", "garden", "logo"]),
    ),
    max_size=80,
)


@given(steps=steps)
def test_no_request_is_lost_and_no_pod_is_overrun(steps: list[tuple[str, int, str]]) -> None:
    story = Story(Limits(max_pending=10), a="robot", b="garden", c="", d="robot,logo")
    router, now_s = story.router, 0.0
    arrived, waiting, running, loading = 0, {}, [], []  # type: ignore[var-annotated]
    ended = 0
    for verb, which, scene in steps:
        now_s += 0.07
        uid = "abcd"[which]
        if verb == "arrive":
            try:
                (ticket,) = story.arrive(scene, now_s)
                arrived += 1
                waiting[ticket.number] = ticket
            except QueueFull:
                assert router.waiting == 10
        elif verb == "release" and running:
            router.release(running.pop(which % len(running)))
            ended += 1
        elif verb in ("warmed", "failed") and loading:
            loaded, at = loading.pop(which % len(loading))
            router.warm_ended(at, loaded, now_s, resident=verb == "warmed")
        elif verb in ("down", "up"):
            story.set_usable(uid, verb == "up")
        elif verb == "abandon" and waiting:
            router.abandon(waiting.pop(min(waiting)))
            ended += 1
        step = router.assign(now_s)
        for ticket, at in step.hands:
            del waiting[ticket.number]
            running.append(at)
        for ticket in step.hopeless:
            del waiting[ticket.number]
            ended += 1
        assert all((loaded, at) not in loading for loaded, at in step.warms)
        loading += step.warms
        assert max(Counter(running).values(), default=0) <= 2
        assert router.in_flight == len(running)
        assert router.waiting == len(waiting) == sum(router.pending_by_scene.values())
        assert arrived == len(waiting) + len(running) + ended
