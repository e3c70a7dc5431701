"""What the autoscaler expects each pool to be asked for: the scene shares in the status of its PredictiveAutoscaler.

Every replica of the extender reads them from the API server, so none depends on who was told last.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from fleet.scene import SceneId, SceneIdError, parse_scene_id
from kube.objects import PREDICTIVE_AUTOSCALERS, Object, Projection, Resource
from kube.watch_store import Change

FORECASTS_API = f"/apis/{PREDICTIVE_AUTOSCALERS.group_version}"
Shares = dict[SceneId, float]


class SceneShare(Projection):
    scene: str = ""
    share: str = ""


class DemandSpec(Projection):
    pool: str = ""


class Spec(Projection):
    demand: DemandSpec | None = None


class Status(Projection):
    scene_shares: list[SceneShare] | None = None


class Forecast(Object):
    """A PredictiveAutoscaler as placement reads it."""

    spec: Spec | None = None
    status: Status | None = None


FORECASTS = Resource(PREDICTIVE_AUTOSCALERS.group_version, PREDICTIVE_AUTOSCALERS.plural, Forecast)


def pool_of(forecast: Forecast) -> str:
    """The pool that the resource is about: the one that it names, else its own name."""
    demand = forecast.spec.demand if forecast.spec else None
    return (demand.pool if demand else "") or forecast.metadata.name


def shares_of(forecast: Forecast) -> Shares:
    """Each scene's share of the demand; what cannot be read is left out, as is a scene that nobody wants."""
    found: Shares = {}
    for item in (forecast.status.scene_shares if forecast.status else None) or ():
        try:
            scene, share = parse_scene_id(item.scene), float(item.share)
        except (SceneIdError, ValueError):
            continue
        if 0.0 < share < math.inf:
            found[scene] = share
    return found


class PoolForecasts:
    """The shares of every pool, kept from changes of the resources that tell them."""

    def __init__(self) -> None:
        self._told: dict[str, tuple[str, Shares]] = {}  # by resource: its pool, and what it says of it

    def changed(self, change: Change[Forecast]) -> Iterator[tuple[str, Shares]]:
        """Take a change; the pools that are expected otherwise since, each with its shares (none: nothing is known).

        Of two resources with one pool the autoscaler refuses one, which then tells nothing; the other one counts.
        """
        key = change.object.metadata.key
        before = self._told.pop(key, None)
        if change.kind != "deleted":
            self._told[key] = pool_of(change.object), shares_of(change.object)
        now = self._told.get(key)
        if now == before:  # most changes of a status are about other things
            return
        for pool in sorted({said[0] for said in (before, now) if said is not None}):
            yield pool, next((shares for named, shares in self._told.values() if named == pool and shares), {})
