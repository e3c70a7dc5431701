"""When nodes of a group join and leave, by moments that the test gives."""

from __future__ import annotations

from local_fleet.kubelet.node_group import GroupState, Terms, decide

TERMS = Terms(boot_s=30.0, idle_s=60.0, most=2, pods_a_node=3)


def test_a_node_joins_its_boot_time_after_pods_found_no_place() -> None:
    state = GroupState()
    assert decide(state, TERMS, 0.0, 2, {}) == ([], [])
    assert decide(state, TERMS, 29.0, 2, {}) == ([], [])
    assert decide(state, TERMS, 30.0, 2, {}) == (["0"], [])
    assert decide(state, TERMS, 31.0, 0, {"0": 2}) == ([], [])


def test_as_many_as_the_pods_need_and_never_more_than_the_limit() -> None:
    state = GroupState()
    decide(state, TERMS, 0.0, 3, {})
    decide(state, TERMS, 5.0, 100, {})
    assert decide(state, TERMS, 30.0, 100, {}) == (["0"], [])
    assert decide(state, TERMS, 35.0, 100, {"0": 3}) == (["1"], [])
    assert decide(state, TERMS, 100.0, 100, {"0": 3, "1": 3}) == ([], [])


def test_a_node_leaves_when_it_was_idle_for_long_enough_without_a_break() -> None:
    state = GroupState()
    decide(state, TERMS, 0.0, 1, {})
    decide(state, TERMS, 30.0, 1, {})
    decide(state, TERMS, 40.0, 0, {})
    assert decide(state, TERMS, 90.0, 0, {"0": 1}) == ([], [])
    decide(state, TERMS, 91.0, 0, {})
    assert decide(state, TERMS, 150.0, 0, {}) == ([], [])
    assert decide(state, TERMS, 151.0, 0, {}) == ([], ["0"])
    decide(state, TERMS, 152.0, 1, {})
    assert decide(state, TERMS, 182.0, 1, {}) == (["1"], []), "a name is not used twice"


def test_the_least_stay() -> None:
    state, terms = GroupState(), Terms(boot_s=1.0, idle_s=1.0, most=3, least=1)
    decide(state, terms, 0.0, 2, {})
    assert decide(state, terms, 1.0, 2, {}) == (["0", "1"], [])
    decide(state, terms, 2.0, 0, {})
    assert decide(state, terms, 3.0, 0, {}) == ([], ["0"])
    assert decide(state, terms, 99.0, 0, {}) == ([], [])


def test_a_node_that_has_just_joined_counts_until_the_scheduler_had_time_to_see_it() -> None:
    state = GroupState()
    decide(state, TERMS, 0.0, 2, {})
    assert decide(state, TERMS, 30.0, 2, {}) == (["0"], [])
    decide(state, TERMS, 30.1, 2, {})
    assert not state.due_s, "both pods fit on the node that came"
    decide(state, TERMS, 30.2, 4, {})
    assert list(state.due_s) == ["1"], "one of four does not"


def test_pods_that_do_not_fit_a_node_that_came_get_another() -> None:
    state = GroupState()
    decide(state, TERMS, 0.0, 2, {})
    decide(state, TERMS, 30.0, 2, {})
    decide(state, TERMS, 44.9, 2, {})
    assert not state.due_s
    decide(state, TERMS, 45.0, 2, {})
    assert list(state.due_s) == ["1"]
