"""`splatfleet gateway`: the HTTP front of the renderer pods."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from fleet.labels import GATEWAY_PORT
from splatfleet.addresses import parse_listen, parse_node_digests
from splatfleet.settings import UsageError, VerbSettings, verb


class GatewayVerbSettings(VerbSettings):
    model_config = SettingsConfigDict(env_prefix="SPLATFLEET_GATEWAY_")

    renderers_file: Path = Field(description="JSON file that names the renderer pods; read again when it changes.")
    listen: str = Field(f"127.0.0.1:{GATEWAY_PORT}", description="Address and port to serve on; port 0 takes any.")
    pool: list[str] = Field(["renderer"], description="Pool to serve, with or without pods; the first is the default.")
    catalogue: Path | None = Field(None, description="Catalogue of scenes; an id that is not in it gets a 404.")
    node_digest: list[str] = Field([], description="NAME=URL of the exporter of a node: what lies on its disk.")
    max_in_flight: int = Field(2, ge=1, le=256, description="Requests that one pod is given at once.")
    max_pending: int = Field(256, ge=1, le=100_000, description="Requests of a pool that may wait in the gateway.")
    spill_pending: int = Field(3, ge=1, description="Requests that may wait for each copy of a scene before one more.")
    spill_wait_s: float = Field(0.15, ge=0, description="Longest wait for busy copies of a scene before one more.")
    hold_s: float = Field(20.0, gt=0, description="Seconds that a request is held while no pod can take it.")
    deadline_s: float = Field(60.0, gt=0, description="Seconds a request may take that gives no deadline_ms.")


def run(settings: GatewayVerbSettings) -> None:
    """Route frame requests (POST /v1/render) to the pods that hold their scenes."""
    listen = parse_listen(settings.listen)
    digests = parse_node_digests(settings.node_digest)
    from renderer.catalogue import CatalogueError
    from renderer.gateway.app import GatewaySettings, serve
    from renderer.gateway.routing import Limits

    limits = Limits(
        max_in_flight_per_pod=settings.max_in_flight,
        max_pending=settings.max_pending,
        spill_pending=settings.spill_pending,
        spill_wait_s=settings.spill_wait_s,
    )
    wanted = GatewaySettings(
        renderers_file=settings.renderers_file,
        pools=tuple(settings.pool),
        node_digests=digests,
        catalogue=settings.catalogue,
        limits=limits,
        hold_s=settings.hold_s,
        deadline_s=settings.deadline_s,
    )
    try:
        serve(wanted, listen)
    except (OSError, CatalogueError) as error:
        raise UsageError(f"gateway: {error}") from error


COMMAND = verb(
    "gateway",
    GatewayVerbSettings,
    run,
    "splatfleet gateway --renderers-file renderers.json --catalogue catalogue.json --listen 127.0.0.1:8080",
)
