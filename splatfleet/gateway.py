"""`splatfleet gateway`: the HTTP front of the renderer pods."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from fleet.labels import GATEWAY_PORT, GATEWAY_TOKENS_ENV, POOL_PATTERN
from splatfleet.addresses import cannot_listen, parse_listen, parse_node_digests
from splatfleet.kubernetes import connect
from splatfleet.settings import DAY_S, UsageError, VerbSettings, verb

if TYPE_CHECKING:
    from renderer.gateway.sources import WatchedPods


class GatewayVerbSettings(VerbSettings):
    model_config = SettingsConfigDict(env_prefix="SPLATFLEET_GATEWAY_")

    renderers_file: Path | None = Field(
        None, description="JSON file that names the renderer pods; read again when it changes."
    )
    kubernetes: bool = Field(False, description="Find the pods at the API server instead (KUBECONFIG, or in a pod).")
    namespace: str = Field("", description="Namespace of the pods; by default that of the credentials.")
    listen: str = Field(f"127.0.0.1:{GATEWAY_PORT}", description="Address and port to serve on; port 0 takes any.")
    pool: list[str] = Field(["renderer"], description="Pool to serve, with or without pods; the first is the default.")
    catalogue: Path | None = Field(None, description="Catalogue of scenes; an id that is not in it gets a 404.")
    node_digest: list[str] = Field([], description="NAME=URL of the exporter of a node: what lies on its disk.")
    max_in_flight: int = Field(2, ge=1, le=256, description="Requests that one pod is given at once.")
    max_pending: int = Field(256, ge=1, le=100_000, description="Requests of a pool that may wait in the gateway.")
    spill_pending: int = Field(
        3, ge=1, le=100_000, description="Requests that may wait for each copy of a scene before one more."
    )
    spill_wait_s: float = Field(
        0.15, ge=0, le=3600, description="Longest wait for busy copies of a scene before one more."
    )
    hold_s: float = Field(20.0, gt=0, le=DAY_S, description="Seconds that a request is held while no pod can take it.")
    deadline_s: float = Field(60.0, gt=0, le=DAY_S, description="Seconds a request may take that gives no deadline_ms.")
    split: list[str] = Field([], description="POOL=WEIGHT: share of the requests that name no pool (a canary).")
    stream_frames_per_s: float = Field(30.0, ge=0.001, le=240, description="Most frames that one stream gets a second.")
    max_sessions: int = Field(4096, ge=1, le=100_000, description="Streams that may be open at once.")
    tokens_file: Path | None = Field(
        None,
        description=f"JSON file of bearer tokens, read again when it changes; or that JSON in {GATEWAY_TOKENS_ENV}.",
    )


def run(settings: GatewayVerbSettings) -> None:
    """Route frame requests (POST /v1/render) to the pods that hold their scenes."""
    listen = parse_listen(settings.listen)
    digests = parse_node_digests(settings.node_digest)
    from renderer.catalogue import CatalogueError
    from renderer.gateway.app import GatewaySettings, serve
    from renderer.gateway.routing import Limits
    from renderer.gateway.session import Pace
    from renderer.gateway.tokens import TokensError

    if (settings.renderers_file is None) != settings.kubernetes:
        raise UsageError("--renderers-file FILE or --kubernetes is needed, and not both: it says which pods there are")
    tokens = os.environ.get(GATEWAY_TOKENS_ENV)
    limits = Limits(
        max_in_flight_per_pod=settings.max_in_flight,
        max_pending=settings.max_pending,
        spill_pending=settings.spill_pending,
        spill_wait_s=settings.spill_wait_s,
    )
    wanted = GatewaySettings(
        renderers_file=settings.renderers_file,
        watched=_watch_pods(settings.namespace) if settings.kubernetes else None,
        pools=_names(settings.pool),
        node_digests=digests,
        catalogue=settings.catalogue,
        limits=limits,
        hold_s=settings.hold_s,
        deadline_s=settings.deadline_s,
        split=_weights(settings.split),
        pace=Pace(frame_s=1.0 / settings.stream_frames_per_s),
        max_sessions=settings.max_sessions,
        tokens_file=settings.tokens_file,
        tokens=tokens.encode() if tokens is not None else None,
    )
    try:
        serve(wanted, listen)
    except OSError as error:
        raise cannot_listen(settings.listen, error) from error
    except (CatalogueError, TokensError) as error:
        raise UsageError(f"gateway: {error}") from error


def _watch_pods(namespace: str) -> WatchedPods:
    """Watches of renderers and node services, begun; raises UsageError without credentials."""
    from kube.discovery import NodePods, RendererPods
    from renderer.gateway.sources import WatchedPods

    connection = connect()
    where = namespace or connection.namespace
    nodes = NodePods(connection, where).start()
    return WatchedPods(RendererPods(connection, where).start(), nodes)


def _names(given: Sequence[str]) -> tuple[str, ...]:
    for name in given:
        if not re.fullmatch(POOL_PATTERN, name):
            raise UsageError(f"--pool {name!r:.80}: expected at most 63 letters, digits, '-', '_' or '.', as renderer")
    return tuple(given)


def _weights(given: list[str]) -> dict[str, float]:
    from renderer.gateway.split import MOST_WEIGHT

    weights: dict[str, float] = {}
    for text in given:
        pool, _, weight = text.partition("=")
        try:
            weights[pool] = float(weight)
        except ValueError:
            weights[pool] = -1.0
        if not re.fullmatch(POOL_PATTERN, pool) or not 0 <= weights[pool] <= MOST_WEIGHT:
            raise UsageError(
                f"--split {text}: expected POOL=WEIGHT with a weight from 0 to {MOST_WEIGHT:,.0f}, for example canary=5"
            )
    if weights and not sum(weights.values()):
        raise UsageError("--split: every weight is 0, expected one above 0")
    return weights


COMMAND = verb(
    "gateway",
    GatewayVerbSettings,
    run,
    "splatfleet gateway --renderers-file renderers.json --catalogue catalogue.json --listen 127.0.0.1:8080",
)
