"""What a session's frames share, and that no silent session stays."""

from __future__ import annotations

from renderer.sessions import Sessions, sessions_of


def test_later_frames_have_the_parameters_of_the_first_and_may_change_them() -> None:
    sessions = Sessions(4, 10.0)
    first = sessions.parameters(7, {"scene": "a", "width": 64, "deadline_ms": 5}, True, False, 0.0)
    assert first == {"scene": "a", "width": 64, "deadline_ms": 5}
    assert sessions.parameters(7, {}, False, False, 1.0) == {"scene": "a", "width": 64}
    assert sessions.parameters(7, {"width": 32}, False, False, 2.0) == {"scene": "a", "width": 32}
    assert sessions.parameters("7", {}, False, False, 2.0) == {}, "a number is not its text"
    assert sessions.parameters(7, {"quality": 9}, False, True, 3.0) == {"scene": "a", "width": 32, "quality": 9}
    assert sessions.parameters(7, {}, True, False, 4.0) == {}, "a new start forgets"


def test_silent_sessions_go_and_their_number_is_bounded() -> None:
    sessions = Sessions(3, 10.0)
    for number in range(5):
        sessions.parameters(number + 1, {"scene": "a"}, True, False, float(number))
    assert len(sessions) == 3
    assert sessions.parameters(5, {}, False, False, 12.5) == {"scene": "a"}
    assert len(sessions) == 2, "3 was silent for 10.5 s"
    assert sessions.parameters(4, {}, False, True, 12.5) == {"scene": "a"}
    assert len(sessions) == 1


def test_the_limits_are_those_of_the_model_configuration() -> None:
    assert sessions_of(None) is None
    told = {"oldest": {"max_candidate_sequences": 2}, "max_sequence_idle_microseconds": "500000"}
    sessions = sessions_of(told)
    assert sessions is not None
    for number in range(9):
        sessions.parameters(number + 1, {}, True, False, 0.0)
    assert len(sessions) == 4
    sessions.parameters(99, {}, True, False, 0.6)
    assert len(sessions) == 1
