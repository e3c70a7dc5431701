"""The cores of streaming: latest camera wins, the quality ladder; tokens and their rates; the split over pools."""

from __future__ import annotations

import json
from collections import Counter
from hashlib import sha256
from typing import Any

import pytest

from renderer.gateway.session import Ladder, Pace, Session, View
from renderer.gateway.split import Split
from renderer.gateway.tokens import Bucket, TokensError, parse_tokens
from renderer.gateway.wire import FrameRequest, Refusal
from tests.gateway.conftest import IDENTITY

PACE = Pace(frame_s=0.033, rest_s=0.15, scales=(1.0, 0.5, 0.25))
SECRET = "a-secret-of-some-length"


def view(number: int, at_s: float, moving: bool | None = None, **fields: Any) -> View:
    request = FrameRequest("robot", IDENTITY, IDENTITY, (640, 480), **fields)
    return View(request, number, at_s, moving)


def test_a_moving_camera_gets_small_jpegs_and_a_whole_frame_at_rest() -> None:
    session = Session(PACE)
    assert session.due_s() is None
    session.look(view(1, 10.0, format="png"))
    assert session.due_s() == float("-inf")
    small = session.draw(10.0)
    assert (small.request.size, small.request.format, small.request.quality) == ((160, 120), "jpeg", 70)
    assert not small.is_whole
    session.drawn(small, 10.0, 10.02)
    assert session.due_s() == pytest.approx(10.15)
    whole = session.draw(10.15)
    assert (whole.request.size, whole.request.format, whole.is_refinement) == ((640, 480), "png", True)
    session.drawn(whole, 10.15, 10.3)
    assert session.due_s() is None


def test_the_latest_camera_wins_and_the_others_are_counted() -> None:
    session = Session(PACE)
    for number in range(1, 6):
        session.look(view(number, 10.0 + number / 100, moving=True))
    draw = session.draw(10.06)
    assert (draw.view.number, draw.superseded) == (5, 4)
    session.drawn(draw, 10.06, 10.07)
    session.look(view(6, 10.08, moving=True))
    assert session.due_s() == pytest.approx(10.06 + PACE.frame_s)  # no faster than its pace
    assert session.draw(10.1).superseded == 0


def test_the_client_may_say_that_it_stands_still() -> None:
    session = Session(PACE)
    session.look(view(1, 10.0, moving=False))
    draw = session.draw(10.0)
    assert (draw.is_whole, draw.request.size) == (True, (640, 480))
    session.drawn(draw, 10.0, 10.1)
    assert session.due_s() is None


def test_a_camera_that_waited_long_for_its_turn_is_drawn_whole_at_once() -> None:
    session = Session(PACE)
    session.look(view(1, 10.0))
    assert session.draw(12.0).is_whole


def test_a_wrong_camera_is_not_tried_again() -> None:
    session = Session(PACE)
    session.look(view(1, 10.0))
    session.give_up()
    assert session.due_s() is None
    session.look(view(2, 11.0))
    assert session.due_s() is not None


def test_demand_is_counted_up_to_the_pace_of_a_session() -> None:
    session = Session(PACE)
    counted = sum(session.look(view(number, 10.0 + number / 1000)) for number in range(1000))
    assert 28 <= counted <= 31


def test_the_ladder_goes_down_when_frames_are_slow_and_up_only_where_the_next_step_holds() -> None:
    ladder = Ladder(Pace(frame_s=0.033, scales=(1.0, 0.5, 0.25)))
    assert ladder.scale == 0.25
    for _ in range(20):
        ladder.measured(0.004)  # at four times the pixels 16 ms: holds
    assert ladder.scale == 1.0
    for _ in range(20):
        ladder.measured(0.09)
    assert ladder.scale == 0.25
    for _ in range(50):
        ladder.measured(0.02)  # at four times the pixels 80 ms: stays
    assert ladder.scale == 0.25


def tokens(*rows: dict[str, Any]) -> bytes:
    return json.dumps({"tokens": rows}).encode()


def test_a_token_opens_its_scenes_and_no_other() -> None:
    book = parse_tokens(tokens({"name": "a", "token": SECRET, "scenes": ["robot"]}))
    book.caller(SECRET).check_scene("robot")
    with pytest.raises(Refusal) as refused:
        book.caller(SECRET).check_scene("garden")
    assert (refused.value.status, refused.value.code) == (403, "forbidden")
    for secret in (None, "wrong", SECRET + "x", ""):
        with pytest.raises(Refusal) as refused:
            book.caller(secret)
        assert refused.value.status == 401


def test_a_digest_stands_for_its_token() -> None:
    book = parse_tokens(tokens({"name": "a", "sha256": sha256(SECRET.encode()).hexdigest(), "scenes": ["*"]}))
    book.caller(SECRET).check_scene("any")


def test_a_rate_lets_a_burst_through_and_then_its_mean() -> None:
    bucket = Bucket(frames_per_s=10.0, burst=5)
    taken = sum(bucket.take(at / 100) == 0.0 for at in range(1000))
    assert taken == pytest.approx(5 + 99, abs=2)
    assert bucket.wait_s(10.0) <= 0.1


def test_a_reload_refills_nobodys_rate() -> None:
    document = tokens({"name": "a", "token": SECRET, "scenes": ["*"], "frames_per_s": 0.1})
    book, newer = parse_tokens(document), parse_tokens(document)
    book.caller(SECRET).check_rate(100.0)
    newer.follow(book)
    with pytest.raises(Refusal) as refused:
        newer.caller(SECRET).check_rate(100.1)
    assert (refused.value.status, refused.value.retry_after_s) == (429, 10)


@pytest.mark.parametrize(
    ("row", "named"),
    [
        ({"name": "a", "scenes": []}, "needs either token or sha256"),
        ({"name": "a", "scenes": [], "token": SECRET, "sha256": "0" * 64}, "needs either token or sha256"),
        ({"name": "a", "scenes": [], "token": "short"}, "expected 16 at least"),
        ({"name": "a", "scenes": [], "sha256": "XYZ"}, "sha256"),
        ({"name": "a", "scenes": ["../x"], "token": SECRET}, "scenes"),
        ({"name": "a", "scenes": [], "token": SECRET, "frames_per_s": 0}, "frames_per_s is 0"),
        ({"name": "a", "scenes": [], "token": SECRET, "burst": 3}, "burst needs frames_per_s"),
        ({"name": "a", "scenes": [], "token": SECRET, "secret": 1}, "secret"),
        ({"name": "a", "token": SECRET}, "scenes"),
    ],
)
def test_a_bad_token_document_is_refused_without_the_token(row: dict[str, Any], named: str) -> None:
    with pytest.raises(TokensError, match=named) as refused:
        parse_tokens(tokens(row))
    assert SECRET not in str(refused.value)


def test_a_split_gives_each_pool_its_share_and_a_key_always_the_same() -> None:
    split = Split({"stable": 90.0, "canary": 10.0, "off": 0.0})
    shares = Counter(split.pool(f"session-{number}") for number in range(20_000))
    assert shares["canary"] == pytest.approx(2000, rel=0.1)
    assert shares["off"] == 0
    assert all(split.pool("session-7") == split.pool("session-7") for _ in range(10))
    more = Split({"stable": 70.0, "canary": 30.0})
    kept = sum(more.pool(f"s{n}") == "stable" for n in range(1000) if split.pool(f"s{n}") == "stable")
    assert kept > 700  # a larger canary takes sessions and swaps none


def test_a_split_of_the_smallest_weights_always_has_a_pool() -> None:
    split = Split({"a": 0.0, "b": 5e-324, "c": 0.0})
    assert {split.pool(f"s{number}") for number in range(100)} == {"b"}


@pytest.mark.parametrize("weights", [{"a": -1.0}, {"a": 0.0}, {"a": float("nan")}, {"a": 1e308, "b": 1e308}])
def test_a_split_of_nothing_is_refused(weights: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="weight"):
        Split(weights)
