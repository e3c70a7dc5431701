"""The shares of scenes in the status of a PredictiveAutoscaler, as the extender takes them."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from kube.watch_store import Change, Kind
from scheduler_extender.forecasts import Forecast, PoolForecasts, pool_of, shares_of


def forecast(name: str, shares: Any = None, pool: str = "") -> Forecast:
    spec = {"demand": {"pool": pool}} if pool else {}
    document = {"metadata": {"name": name, "namespace": "splats"}, "spec": spec, "status": {"sceneShares": shares}}
    return msgspec.json.decode(msgspec.json.encode(document), type=Forecast)


def told(**shares: str) -> list[dict[str, str]]:
    return [{"scene": scene, "share": share} for scene, share in shares.items()]


def changed(of: PoolForecasts, now: Forecast, kind: Kind = "modified") -> dict[str, dict[str, float]]:
    return {pool: dict(shares) for pool, shares in of.changed(Change(kind, now, None))}


@pytest.mark.parametrize(
    ("said", "read"),
    [
        (None, {}),
        ([], {}),
        (told(robot="0.75", train="0.2"), {"robot": 0.75, "train": 0.2}),
        (told(robot="much", train="-1", ball="nan", cup="inf", tree="0"), {}),
        ([{"scene": "../x", "share": "0.5"}, {"share": "0.5"}, {"scene": "ball", "share": "0.5"}], {"ball": 0.5}),
    ],
)
def test_shares_are_read_and_what_cannot_be_read_is_left_out(said: Any, read: dict[str, float]) -> None:
    assert shares_of(forecast("web", said)) == read


def test_the_pool_is_the_one_that_is_named() -> None:
    assert pool_of(forecast("web")) == "web"
    assert pool_of(forecast("web", pool="viewer")) == "viewer"


def test_only_what_changes_a_price_is_passed_on() -> None:
    forecasts = PoolForecasts()
    assert changed(forecasts, forecast("web")) == {"web": {}}
    assert changed(forecasts, forecast("web", told(robot="1"))) == {"web": {"robot": 1.0}}
    assert changed(forecasts, forecast("web", told(robot="1"))) == {}
    assert changed(forecasts, forecast("web", told(robot="1"), pool="viewer")) == {"web": {}, "viewer": {"robot": 1.0}}
    assert changed(forecasts, forecast("web", told(robot="1")), "deleted") == {"viewer": {}}


def test_a_second_resource_of_a_pool_that_is_refused_takes_nothing_away() -> None:
    forecasts = PoolForecasts()
    changed(forecasts, forecast("old", told(robot="1"), pool="viewer"))
    assert changed(forecasts, forecast("new", pool="viewer")) == {"viewer": {"robot": 1.0}}
    assert changed(forecasts, forecast("new", pool="viewer"), "deleted") == {"viewer": {"robot": 1.0}}
    assert changed(forecasts, forecast("old", told(robot="1"), pool="viewer"), "deleted") == {"viewer": {}}
