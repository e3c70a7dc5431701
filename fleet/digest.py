"""What a node says of itself, `GET /v1/node`: written by the exporter, read by the extender.

Plain dataclasses, so that msgspec (exporter, extender) and tests build and decode the same thing.
"""

from __future__ import annotations

from dataclasses import dataclass, field

DIGEST_VERSION = 1
DIGEST_PATH = "/v1/node"


@dataclass(frozen=True, slots=True)
class CachedScene:
    """A scene that lies whole on the node's disk."""

    id: str
    digest: str
    bytes: int  # of the disk
    last_used_s: float  # Unix seconds
    resident_bytes: int = 0  # what it takes in a pod's memory; 0: an exporter that does not say


@dataclass(frozen=True, slots=True)
class FetchingScene:
    """A scene whose download is in flight."""

    id: str
    done_bytes: int
    total_bytes: int


@dataclass(frozen=True, slots=True)
class SceneCache:
    """The node's scene store. Bandwidths are 0 where nothing was measured yet."""

    capacity_bytes: int
    free_bytes: int
    fetch_bytes_per_s: float
    read_bytes_per_s: float
    scenes: tuple[CachedScene, ...] = ()
    fetching: tuple[FetchingScene, ...] = ()
    peer_bytes_per_s: float = 0.0  # of downloads from other nodes


@dataclass(frozen=True, slots=True)
class Slice:
    """A MIG slice that exists on a GPU; `pod_uid` is empty while it is free."""

    profile: str  # `1g.10gb`
    start: int  # first memory slice, 0-7
    healthy: bool = True
    pod_uid: str = ""


@dataclass(frozen=True, slots=True)
class GpuDigest:
    """A GPU and the slices cut on it."""

    uuid: str
    model: str  # `H100-80`
    healthy: bool = True
    slices: tuple[Slice, ...] = ()


@dataclass(frozen=True, slots=True)
class ResidentScene:
    """A scene in the VRAM (or RAM) of a pod."""

    id: str
    bytes: int


@dataclass(frozen=True, slots=True)
class PodDigest:
    """A renderer pod of the node and what it holds."""

    uid: str
    pool: str
    budget_bytes: int
    resident: tuple[ResidentScene, ...] = ()


@dataclass(frozen=True, slots=True)
class NodeDigest:
    """One node at one moment; (`started_at_s`, `generation`) names its contents and is the ETag."""

    node: str
    generation: int
    started_at_s: float  # Unix seconds, when the exporter started
    scene_cache: SceneCache
    gpus: tuple[GpuDigest, ...] = ()
    pods: tuple[PodDigest, ...] = field(default=())
    version: int = DIGEST_VERSION


def etag(digest: NodeDigest) -> str:
    """The strong ETag `"<started_at>-<generation>"` of a digest; milliseconds, so a quick restart differs."""
    return f'"{digest.started_at_s:.3f}-{digest.generation}"'
