"""`splatfleet extender`: the scheduler extender as a process."""

from __future__ import annotations

import ipaddress
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from fleet.digest import DIGEST_PATH
from fleet.labels import EXTENDER_PORT
from scheduler_extender.prices import Prices
from splatfleet.addresses import cannot_listen, parse_listen, parse_node_digests
from splatfleet.settings import DAY_S, WRITES_FILE, UsageError, VerbSettings, verb

if TYPE_CHECKING:
    from kube.tls import TlsFiles
    from scheduler_extender.kubernetes import ClusterWatch

DEFAULT = Prices()


class ExtenderSettings(VerbSettings):
    model_config = SettingsConfigDict(env_prefix="SPLATFLEET_EXTENDER_")

    node_digest: list[str] = Field(
        [], description="NAME=URL of a node's exporter, once per node; /v1/node is added to a URL without a path."
    )
    kubernetes: bool = Field(
        False,
        description="Follow nodes, pods and DRA devices of the API server (KUBECONFIG, or the pod's own account).",
    )
    listen: str = Field(f"127.0.0.1:{EXTENDER_PORT}", description="HOST:PORT to listen on; port 0 takes a free one.")
    poll_s: float = Field(
        5.0,
        gt=0,
        le=3600,
        description="Seconds between two asks for a node's digest; twice as many where twelve asks found no change.",
    )
    poll_timeout_s: float = Field(2.0, gt=0, le=3600, description="Seconds after which an ask is given up.")
    reservation_s: float = Field(
        30.0, gt=0, le=DAY_S, description="Seconds that a decision is held until its binding is seen."
    )
    fragmentation_s_per_slice: float = Field(
        DEFAULT.fragmentation_s_per_slice,
        ge=0,
        le=1e9,
        description="Seconds that a memory slice made useless to others is worth.",
    )
    eviction_weight: float = Field(
        DEFAULT.eviction_weight, ge=0, le=1e6, description="Weight of the seconds that evicted scenes will cost later."
    )
    crowding_weight: float = Field(
        DEFAULT.crowding_weight,
        ge=0,
        le=1e6,
        description="Weight of the seconds that a node's warm scenes save, by the part of its places that a pod takes.",
    )
    weight: int = Field(
        0,
        ge=0,
        description="Weight of this extender in kube-scheduler's configuration: of more than 100 nodes that fit filter "
        "names those that can still win then, whatever the default plugins say; 0 names all.",
    )
    max_body_bytes: int = Field(16 << 20, gt=0, description="Largest body that is read.")
    tls_certificate: Path | None = Field(None, description="PEM certificate chain; read again when it changes.")
    tls_key: Path | None = Field(None, description="PEM key of --tls-certificate, not encrypted.")
    client_ca: Path | None = Field(None, description="PEM CA: only clients with a certificate of it are answered.")
    decisions: Path | None = Field(
        None,
        description="Append everything that decisions follow from here, for `splatfleet replay`.",
        json_schema_extra=WRITES_FILE,
    )
    most_decisions_bytes: int = Field(1 << 30, gt=0, description="Size at which --decisions stops to grow.")
    decisions_file_bytes: int = Field(
        64 << 20, gt=0, description="Size of one of its files; a full one gets .1, .2, … behind its name."
    )
    allow_anyone: bool = Field(False, description="Listen beyond this machine without --client-ca: anyone may ask.")


def run(settings: ExtenderSettings) -> None:
    """Answer kube-scheduler's filter and prioritize calls.

    POST /filter, /prioritize, /preempt and /explain take kube-scheduler's bodies, POST /v1/pod-events what a pod watch
    says; /metrics, /-/healthy and /-/ready say how it goes.
    """
    urls = {
        name: url if urlsplit(url).path.strip("/") else url + DIGEST_PATH
        for name, url in parse_node_digests(settings.node_digest).items()
    }
    listen = parse_listen(settings.listen)
    if settings.client_ca is None and not settings.allow_anyone and not _is_loopback(listen[0]):
        raise UsageError(
            f"--listen {settings.listen}: others could ask there and nobody has to show a certificate; give "
            "--client-ca (with --tls-certificate and --tls-key), listen on 127.0.0.1, or say --allow-anyone"
        )
    if settings.kubernetes == bool(settings.node_digest):
        raise UsageError(
            "say where nodes are found: --kubernetes (by the API server), or --node-digest NAME=URL once per node"
        )
    from kube.tls import TlsError
    from scheduler_extender import server
    from scheduler_extender.journal import JournalError

    prices = Prices(
        fragmentation_s_per_slice=settings.fragmentation_s_per_slice,
        eviction_weight=settings.eviction_weight,
        crowding_weight=settings.crowding_weight,
        fresh_s=3 * settings.poll_s,
    )
    wanted = server.Settings(
        urls,
        prices,
        settings.poll_s,
        settings.poll_timeout_s,
        settings.reservation_s,
        settings.max_body_bytes,
        _tls_files(settings),
        settings.decisions,
        settings.most_decisions_bytes,
        settings.decisions_file_bytes,
        _watch() if settings.kubernetes else None,
        settings.weight,
    )
    try:
        server.serve(wanted, listen)
    except JournalError as error:
        raise UsageError(f"--decisions {settings.decisions}: {error}") from error
    except OSError as error:
        raise cannot_listen(settings.listen, error) from error
    except TlsError as error:
        raise UsageError(str(error)) from error


def _watch() -> ClusterWatch:
    from kube.connection import Connection
    from kube.errors import ConfigError
    from scheduler_extender.kubernetes import ClusterWatch

    try:
        return ClusterWatch(Connection.open())
    except ConfigError as error:
        raise UsageError(f"--kubernetes: {error}") from error


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _tls_files(settings: ExtenderSettings) -> TlsFiles | None:
    from kube.tls import TlsFiles

    certificate, key = settings.tls_certificate, settings.tls_key
    if certificate is None and key is None and settings.client_ca is None:
        return None
    if certificate is None or key is None:
        missing = "--tls-key" if key is None else "--tls-certificate"
        raise UsageError(f"{missing} is needed: TLS takes --tls-certificate and --tls-key, --client-ca both of them")
    return TlsFiles(certificate, key, settings.client_ca)


COMMAND = verb(
    "extender",
    ExtenderSettings,
    run,
    "splatfleet extender --node-digest gpu-1=http://127.0.0.1:9465 --listen 127.0.0.1:9466\n"
    "splatfleet extender --kubernetes --listen 127.0.0.1:9466",
)
