"""The renderers file: who finds which pod where, on one machine.

The exporter and the gateway re-read it whenever it changes; on Kubernetes a pod watch says the same.
Written whole and renamed into place, so a reader never sees half of it.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Renderer:
    """One renderer pod as its neighbours see it."""

    uid: str
    pool: str
    node: str
    grpc_address: str  # `127.0.0.1:18001`
    http_address: str
    metrics_address: str
    ready: bool = True
    draining: bool = False
    budget_bytes: int = 0  # scene cache of the pod; 0 is not known
    slice: str = ""  # `<gpu uuid>/<profile>@<start>`, empty where there is none


@dataclass(frozen=True, slots=True)
class RenderersFile:
    renderers: tuple[Renderer, ...] = ()
    version: int = 1
