"""The order of asks, without a thread or a clock."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from fleet.scene import SceneId
from renderer.ask_queue import Ask, AskQueue


def ask(scene: str, priority: int = 0, deadline_s: float = 10.0, asked_s: float = 0.0) -> Ask:
    return Ask(SceneId(scene), priority, deadline_s, asked_s)


def test_priority_before_deadline_before_age() -> None:
    queue = AskQueue(slots=1)
    for each in (ask("late", 0, 20), ask("soon", 0, 5), ask("first", 1, 90), ask("old", 0, 20, -1)):
        queue.put(each)
    order = []
    while (taken := queue.take()) is not None:
        order.append(taken.scene)
        queue.finished(taken.scene)
    assert order == ["first", "soon", "old", "late"]


def test_urgent_ask_overtakes_the_least_urgent_once() -> None:
    queue = AskQueue(slots=2)
    for each in (ask("a", deadline_s=50), ask("b", deadline_s=60)):
        queue.put(each)
        queue.take()
    queue.put(ask("c", deadline_s=60))
    assert queue.overtaken() is None, "an equal ask stops nobody"
    queue.put(ask("d", deadline_s=5))
    stopped = queue.overtaken()
    assert stopped is not None
    assert stopped.scene == "b"
    assert queue.overtaken() is None, "one urgent ask needs one slot"
    queue.paused(stopped.scene)
    taken = queue.take()
    assert taken is not None
    assert taken.scene == "d"
    assert set(queue.waiting) == {"b", "c"}


def test_asking_again_makes_it_more_urgent_never_less() -> None:
    queue = AskQueue(slots=1)
    queue.put(ask("a", 1, 10, asked_s=0))
    merged = queue.put(ask("a", 0, 5, asked_s=3))
    assert (merged.priority, merged.deadline_s, merged.asked_s) == (1, 5, 0)


def test_dropped_while_it_runs_does_not_come_back_unless_asked_again() -> None:
    queue = AskQueue(slots=1)
    for again in (False, True):
        queue.put(ask("a"))
        queue.take()
        assert queue.drop(SceneId("a"))
        assert queue.is_to_pause(SceneId("a"))
        if again:
            queue.put(ask("a"))
        queue.paused(SceneId("a"))
        assert ("a" in queue.waiting) == again
    assert not queue.drop(SceneId("z"))


def test_late_is_told_once() -> None:
    queue = AskQueue(slots=1)
    queue.put(ask("a", deadline_s=5))
    assert queue.late(4.0) == []
    assert [each.scene for each in queue.late(6.0)] == ["a"]
    assert queue.late(7.0) == []


@given(
    st.lists(
        st.tuples(st.sampled_from(["putdrop", "take", "finish", "pause", "over"]), st.integers(0, 4), st.integers(0, 3))
    )
)
def test_slots_are_never_exceeded_and_no_ask_is_lost(steps: list[tuple[str, int, int]]) -> None:
    queue = AskQueue(slots=2)
    wanted: set[str] = set()
    for step, number, urgency in steps:
        scene = SceneId("abcde"[number])
        match step:
            case "putdrop" if urgency == 3:
                queue.drop(scene)
                wanted.discard(scene)
            case "putdrop":
                queue.put(ask(scene, deadline_s=10.0 * urgency))
                wanted.add(scene)
            case "take":
                queue.take()
            case "over":
                queue.overtaken()
            case "finish" | "pause" if scene in queue.running:
                if step == "finish":
                    queue.finished(scene)
                    wanted.discard(scene)
                else:
                    queue.paused(scene)
        assert len(queue.running) <= 2
        assert not queue.running.keys() & queue.waiting.keys()
        assert wanted <= queue.running.keys() | queue.waiting.keys()
        assert set(queue.waiting) <= wanted
