"""`splatfleet exporter`: metrics and digest of one node."""

from __future__ import annotations

import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from fleet.labels import EXPORTER_PORT
from splatfleet.addresses import cannot_listen, is_url, parse_listen
from splatfleet.kubernetes import connect
from splatfleet.settings import DAY_S, UsageError, VerbSettings, verb

if TYPE_CHECKING:
    from kube.discovery import RendererPods


class ExporterSettings(VerbSettings):
    model_config = SettingsConfigDict(env_prefix="SPLATFLEET_EXPORTER_")

    triton: list[str] = Field([], description="Metrics address or URL of a Triton server of this node; repeatable.")
    pool: str = Field("renderer", min_length=1, description="Pool of the servers that --triton names.")
    renderers_file: Path | None = Field(None, description="JSON file of the renderer pods, read again on change.")
    kubernetes: bool = Field(False, description="Find the pods of --node at the API server (KUBECONFIG, or in a pod).")
    namespace: str = Field("", description="With --kubernetes: namespace of the pods; all of them if not given.")
    node: str = Field(socket.gethostname(), description="This node; of the renderers file only its pods count.")
    beside: str = Field(
        "", description="UID of the pod it runs beside: the store is that pod's, and so are the metrics."
    )
    scene_cache: Path | None = Field(None, description="Folder of the node's scene store.")
    gpus_file: Path | None = Field(None, description="JSON layout of GPUs and slices; without it NVML is asked.")
    listen: str = Field(f"127.0.0.1:{EXPORTER_PORT}", description="Address to serve on; port 0 takes a free one.")
    window_s: float = Field(30.0, gt=0, le=DAY_S, description="Window of the queue-to-compute ratio.")
    deadline_s: float = Field(1.0, gt=0, le=DAY_S, description="Longest wait for any one source.")
    dcgm: str = Field("", description="Address or URL of a dcgm-exporter on this node, for figures per slice.")


def run(settings: ExporterSettings) -> None:
    """Serve Triton, scene-cache and GPU metrics and the node digest."""
    import structlog

    from exporter.app import serve
    from exporter.sources import Sources, metrics_url

    host, port = parse_listen(settings.listen)
    addresses = [("--triton", address) for address in settings.triton]
    addresses += [("--dcgm", settings.dcgm)] if settings.dcgm else []
    for flag, address in addresses:
        try:
            if not metrics_url(address) or not is_url(address if "://" in address else f"http://{address}"):
                raise ValueError(
                    f"metrics address {address!r:.80} is not valid; example: http://127.0.0.1:8002/metrics"
                )
        except ValueError as error:
            raise UsageError(f"{flag}: {error}") from error
    pods_from = settings.triton or settings.renderers_file or settings.kubernetes
    if not (pods_from or settings.scene_cache or settings.gpus_file or settings.dcgm):
        given = "--triton, --renderers-file, --kubernetes, --scene-cache, --gpus-file or --dcgm"
        raise UsageError(f"nothing to export: give {given}")
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    sources = Sources(
        node=settings.node,
        triton=tuple(settings.triton),
        pool=settings.pool,
        renderers_file=settings.renderers_file,
        renderer_pods=_watch_pods(settings.node, settings.namespace) if settings.kubernetes else None,
        scene_cache=settings.scene_cache,
        beside=settings.beside,
        gpus_file=settings.gpus_file,
        dcgm=settings.dcgm,
        window_s=settings.window_s,
        deadline_s=settings.deadline_s,
    )
    try:
        serve(sources, host, port)
    except OSError as error:
        raise cannot_listen(settings.listen, error) from error


def _watch_pods(node: str, namespace: str) -> RendererPods:
    """A watch of the node's renderer pods, begun; raises UsageError without credentials."""
    from kube.discovery import RendererPods

    return RendererPods(connect(), namespace or None, node=node).start()


COMMAND = verb(
    "exporter",
    ExporterSettings,
    run,
    "splatfleet exporter --triton http://127.0.0.1:8002/metrics --scene-cache /var/lib/splatfleet/scenes "
    "--gpus-file gpus.json --listen 127.0.0.1:9465",
)
