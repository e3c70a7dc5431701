"""`splatfleet extender`: the scheduler extender as a process."""

from __future__ import annotations

from urllib.parse import urlsplit

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from fleet.digest import DIGEST_PATH
from fleet.labels import EXTENDER_PORT
from splatfleet.addresses import parse_listen, parse_node_digests
from splatfleet.settings import UsageError, VerbSettings, verb


class ExtenderSettings(VerbSettings):
    model_config = SettingsConfigDict(env_prefix="SPLATFLEET_EXTENDER_")

    node_digest: list[str] = Field(
        description="NAME=URL of a node's exporter, once per node; /v1/node is added to a URL without a path."
    )
    listen: str = Field(f"127.0.0.1:{EXTENDER_PORT}", description="HOST:PORT to listen on; port 0 takes a free one.")
    poll_s: float = Field(5.0, gt=0, le=3600, description="Seconds between two asks for a node's digest.")
    poll_timeout_s: float = Field(2.0, gt=0, description="Seconds after which an ask is given up.")
    reservation_s: float = Field(30.0, gt=0, description="Seconds that a decision is held until its binding is seen.")
    fragmentation_s_per_slice: float = Field(
        0.5, ge=0, description="Seconds that a memory slice made useless to others is worth."
    )
    eviction_weight: float = Field(8.0, ge=0, description="Weight of the seconds that evicted scenes will cost later.")
    crowding_weight: float = Field(
        0.02, ge=0, description="Weight of the seconds that a node's other warm scenes save, over its free slices."
    )
    max_body_bytes: int = Field(16 << 20, gt=0, description="Largest body that is read.")


def run(settings: ExtenderSettings) -> None:
    """Answer kube-scheduler's filter and prioritize calls.

    POST /filter, /prioritize and /explain take ExtenderArgs, POST /v1/pod-events what a pod watch says;
    /metrics, /-/healthy and /-/ready say how it goes.
    """
    urls = {
        name: url if urlsplit(url).path.strip("/") else url + DIGEST_PATH
        for name, url in parse_node_digests(settings.node_digest).items()
    }
    listen = parse_listen(settings.listen)
    from scheduler_extender import server
    from scheduler_extender.placement import Prices

    prices = Prices(
        fragmentation_s_per_slice=settings.fragmentation_s_per_slice,
        eviction_weight=settings.eviction_weight,
        crowding_weight=settings.crowding_weight,
        fresh_s=3 * settings.poll_s,
    )
    wanted = server.Settings(
        urls, prices, settings.poll_s, settings.poll_timeout_s, settings.reservation_s, settings.max_body_bytes
    )
    try:
        server.serve(wanted, listen)
    except OSError as error:
        raise UsageError(f"--listen {settings.listen}: {error}") from error


COMMAND = verb(
    "extender",
    ExtenderSettings,
    run,
    "splatfleet extender --node-digest gpu-1=http://127.0.0.1:9465 --listen 127.0.0.1:9466",
)
