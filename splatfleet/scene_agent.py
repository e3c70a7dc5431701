"""`splatfleet scene-agent`: a node's scene store over HTTP."""

from __future__ import annotations

import socket
import sys
from pathlib import Path

import click
from pydantic import Field
from pydantic_settings import SettingsConfigDict

from fleet.labels import SCENE_AGENT_PORT, SCENE_AGENT_TOKEN_ENV
from splatfleet.addresses import cannot_listen, parse_listen, parse_node_digests
from splatfleet.settings import UsageError, VerbSettings, verb


class SceneAgentSettings(VerbSettings):
    model_config = SettingsConfigDict(env_prefix="SPLATFLEET_SCENE_AGENT_")

    store: Path = Field(description="Folder of the node's scene store, shared with its pods.")
    capacity_gb: float = Field(20.0, gt=0, description="What the store may hold, in 10^9 bytes.")
    catalogue: Path = Field(description="Scene catalogue (JSON), read again when it changes.")
    token_file: Path | None = Field(
        None, description=f"File of bearer tokens, one a line; else {SCENE_AGENT_TOKEN_ENV} holds them."
    )
    node: str = Field(socket.gethostname(), description="This node's name.")
    listen: str = Field(f"127.0.0.1:{SCENE_AGENT_PORT}", description="Address to serve on; port 0 takes a free one.")
    peer: list[str] = Field([], description="NAME=URL of another node's agent, nearest first; repeatable.")
    fetch_mb_per_s: float = Field(0.0, ge=0, description="Bandwidth to object stores, shared with pods; 0 is no cap.")
    slots: int = Field(2, ge=1, le=64, description="Scenes fetched at once.")
    fetch_timeout_s: float = Field(600.0, gt=0, description="Longest time for one scene.")


def run(settings: SceneAgentSettings) -> None:
    """Bring scenes to this node before they are asked for, and serve them to other nodes."""
    import structlog

    from renderer.catalogue import CatalogueError
    from renderer.credentials import BearerTokens, CredentialError
    from renderer.scene_agent import AgentSettings, serve

    listen = parse_listen(settings.listen)
    peers = parse_node_digests(settings.peer, flag="--peer")
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
    )
    try:
        serve(wanted, listen)
    except CredentialError as error:
        raise UsageError(f"--token-file: {error}") from error
    except OSError as error:
        raise cannot_listen(settings.listen, error) from error
    except CatalogueError as error:
        raise click.ClickException(f"scene-agent: {error}") from error


COMMAND = verb(
    "scene-agent",
    SceneAgentSettings,
    run,
    "splatfleet scene-agent --store /var/lib/splatfleet/scenes --catalogue catalogue.json --token-file token",
)
