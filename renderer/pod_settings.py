"""What a pod is told through its environment; every fault is listed at once."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args
from urllib.parse import urlsplit

from fleet import labels
from fleet.scene import SceneId, parse_scene_id, parse_scene_ids
from renderer.rasterizer import Name
from renderer.request import parse_size
from renderer.scene_roots import ANYWHERE, SceneRoots, parse_roots

GIB = 1 << 30


class PodSettingsError(Exception):
    """Environment variables that are wrong; names each with its value and what is allowed."""


@dataclass(frozen=True, slots=True)
class PodSettings:
    """Settings of one renderer pod, by their environment variables in fleet.labels."""

    catalogue: Path
    store: Path
    scenes: tuple[SceneId, ...] = ()  # loaded before the pod is Ready
    default_scene: SceneId | None = None
    default_size: tuple[int, int] = (512, 512)
    budget_bytes: int = 2 * GIB
    store_capacity_bytes: int = 20 * GIB
    fetch_bytes_per_s: float | None = None
    rasterizer: Name = "auto"
    frame_floor_s: float = 0.0
    peers: tuple[str, ...] = ()  # URLs of other nodes' scene agents, nearest first
    agent_token_file: Path | None = None  # else SPLATFLEET_SCENE_AGENT_TOKEN, where there are peers
    peer_ca: Path | None = None
    roots: SceneRoots = ANYWHERE


def read_settings(environment: Mapping[str, str]) -> PodSettings:
    """Parse the environment of a pod; raises PodSettingsError. Only the catalogue is needed."""
    faults: list[str] = []
    values: dict[str, Any] = {"store": Path(tempfile.gettempdir()) / "splatfleet-scene-store"}
    for variable, (field, parse) in _VARIABLES.items():
        text = environment.get(variable, "").strip()
        if not text:
            continue
        try:
            values[field] = parse(text)
        except ValueError as error:
            faults.append(f"{variable}={text!r}: {error}")
    if "catalogue" not in values:
        faults.append(f"{labels.CATALOGUE_ENV} is not set, expected the path of a scene catalogue (JSON)")
    if faults:
        raise PodSettingsError("; ".join(faults))
    return PodSettings(**values)


def _bytes(text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) == 0:
        raise ValueError("expected a whole number of bytes more than 0")
    return int(text)


def _rate(text: str) -> float | None:
    return _number(text) or None  # 0 is no cap


def _number(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not 0 <= number < float("inf"):
        raise ValueError("expected a number >= 0")
    return number


def _rasterizer(text: str) -> str:
    if text not in get_args(Name):
        raise ValueError(f"expected one of {', '.join(get_args(Name))}")
    return text


def _urls(text: str) -> tuple[str, ...]:
    urls = tuple(url.strip().rstrip("/") for url in text.split(",") if url.strip())
    for url in urls:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.netloc or "@" in parts.netloc or parts.query:
            raise ValueError("expected http://HOST:PORT or https://HOST:PORT, separated by commas")
    return urls


def _roots(text: str) -> SceneRoots:
    return parse_roots([root.strip() for root in text.split(",") if root.strip()])


_VARIABLES: dict[str, tuple[str, Callable[[str], Any]]] = {
    labels.CATALOGUE_ENV: ("catalogue", Path),
    labels.SCENE_CACHE_ENV: ("store", Path),
    labels.SCENES_ENV: ("scenes", parse_scene_ids),
    labels.DEFAULT_SCENE_ENV: ("default_scene", parse_scene_id),
    labels.DEFAULT_SIZE_ENV: ("default_size", parse_size),
    labels.POD_BUDGET_ENV: ("budget_bytes", _bytes),
    labels.STORE_CAPACITY_ENV: ("store_capacity_bytes", _bytes),
    labels.FETCH_LIMIT_ENV: ("fetch_bytes_per_s", _rate),
    labels.RASTERIZER_ENV: ("rasterizer", _rasterizer),
    labels.FRAME_FLOOR_ENV: ("frame_floor_s", _number),
    labels.SCENE_PEERS_ENV: ("peers", _urls),
    labels.SCENE_AGENT_TOKEN_FILE_ENV: ("agent_token_file", Path),
    labels.SCENE_PEER_CA_ENV: ("peer_ca", Path),
    labels.SCENE_ROOTS_ENV: ("roots", _roots),
}
