"""`splatfleet scene-agent`: a node's scene store over HTTP."""

from __future__ import annotations

import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click
from pydantic import Field
from pydantic_settings import SettingsConfigDict

from fleet.labels import SCENE_AGENT_PORT, SCENE_AGENT_TOKEN_ENV
from splatfleet.addresses import cannot_listen, check_url, parse_listen, parse_node_digests
from splatfleet.settings import DAY_S, UsageError, VerbSettings, verb

if TYPE_CHECKING:
    from kube.tls import ClientTls, TlsFiles
    from renderer.scene_roots import SceneRoots


class SceneAgentSettings(VerbSettings):
    model_config = SettingsConfigDict(env_prefix="SPLATFLEET_SCENE_AGENT_")

    store: Path = Field(description="Folder of the node's scene store, shared with its pods.")
    capacity_gb: float = Field(20.0, gt=0, le=1e9, description="What the store may hold, in 10^9 bytes.")
    catalogue: Path = Field(description="Scene catalogue (JSON), read again when it changes.")
    token_file: Path | None = Field(
        None, description=f"File of bearer tokens, one a line; else {SCENE_AGENT_TOKEN_ENV} holds them."
    )
    node: str = Field(socket.gethostname(), description="This node's name.")
    listen: str = Field(f"127.0.0.1:{SCENE_AGENT_PORT}", description="Address to serve on; port 0 takes a free one.")
    peer: list[str] = Field([], description="NAME=URL of another node's agent, nearest first; repeatable.")
    fetch_mb_per_s: float = Field(
        0.0, ge=0, le=1e9, description="Bandwidth to object stores, shared with pods; 0 is no cap."
    )
    slots: int = Field(2, ge=1, le=64, description="Scenes fetched at once.")
    fetch_timeout_s: float = Field(600.0, gt=0, le=DAY_S, description="Longest time for one scene.")
    allow_root: list[str] = Field(
        [], description="Address under which scenes may lie (s3://BUCKET/PREFIX, file:///DIR, …); repeatable; else any."
    )
    tls_certificate: Path | None = Field(None, description="PEM certificate chain; read again when it changes.")
    tls_key: Path | None = Field(None, description="PEM key of --tls-certificate, not encrypted.")
    client_ca: Path | None = Field(None, description="PEM CA: only clients with a certificate of it are answered.")
    peer_ca: Path | None = Field(None, description="PEM CA of other agents' certificates; --tls-certificate is shown.")
    gateway: list[str] = Field([], description="URL of a gateway that says which scenes are popular; repeatable.")
    preload_share: float = Field(0.5, gt=0, le=1, description="Share of the store that is filled when idle.")
    preload_every_s: float = Field(10.0, gt=0, le=DAY_S, description="Seconds between two looks at the gateways.")


def run(settings: SceneAgentSettings) -> None:
    """Bring scenes to this node before they are asked for, and serve them to other nodes."""
    import structlog

    from renderer.catalogue import CatalogueError
    from renderer.credentials import BearerTokens, CredentialError
    from renderer.scene_agent import AgentSettings, serve

    listen = parse_listen(settings.listen)
    peers = parse_node_digests(settings.peer, flag="--peer")
    for url in settings.gateway:
        check_url(url, "--gateway")
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    wanted = AgentSettings(
        node=settings.node,
        store=settings.store,
        capacity_bytes=round(settings.capacity_gb * 1e9),
        catalogue=settings.catalogue,
        tokens=BearerTokens(settings.token_file),
        peers=tuple(url for name, url in peers.items() if name != settings.node),
        fetch_bytes_per_s=settings.fetch_mb_per_s * 1e6 or None,
        slots=settings.slots,
        fetch_timeout_s=settings.fetch_timeout_s,
        roots=_roots(settings.allow_root),
        tls=_tls_files(settings),
        peer_tls=_peer_tls(settings),
        gateways=tuple(url.rstrip("/") for url in settings.gateway),
        preload_share=settings.preload_share,
        preload_every_s=settings.preload_every_s,
    )
    if not settings.allow_root:
        structlog.get_logger().warning("every source of the catalogue is fetched; --allow-root narrows it")
    try:
        serve(wanted, listen)
    except CredentialError as error:
        raise UsageError(f"--token-file: {error}") from error
    except OSError as error:
        raise cannot_listen(settings.listen, error) from error
    except CatalogueError as error:
        raise click.ClickException(f"scene-agent: {error}") from error


def _roots(texts: list[str]) -> SceneRoots:
    from renderer.scene_roots import parse_roots

    try:
        return parse_roots(texts)
    except ValueError as error:
        raise UsageError(f"--allow-root: {error}") from error


def _tls_files(settings: SceneAgentSettings) -> TlsFiles | None:
    from kube.tls import TlsFiles

    certificate, key = settings.tls_certificate, settings.tls_key
    if certificate is None and key is None and settings.client_ca is None:
        return None
    if certificate is None or key is None:
        missing = "--tls-key" if key is None else "--tls-certificate"
        raise UsageError(f"{missing} is needed: TLS takes --tls-certificate and --tls-key, --client-ca both of them")
    return TlsFiles(certificate, key, settings.client_ca)


def _peer_tls(settings: SceneAgentSettings) -> ClientTls | None:
    from kube.tls import ClientTls, TlsError

    if settings.peer_ca is None:
        return None
    try:
        return ClientTls(settings.peer_ca, settings.tls_certificate, settings.tls_key)
    except TlsError as error:
        raise UsageError(f"--peer-ca: {error}") from error


COMMAND = verb(
    "scene-agent",
    SceneAgentSettings,
    run,
    "splatfleet scene-agent --store /var/lib/splatfleet/scenes --catalogue catalogue.json --token-file token",
)
