"""`splatfleet triton`: one real renderer server over a folder of scenes."""

from __future__ import annotations

import signal
import socket
import tempfile
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click
from pydantic import Field
from pydantic_settings import SettingsConfigDict

from fleet import labels
from splatfleet.settings import UsageError, VerbSettings, verb

if TYPE_CHECKING:
    from local_fleet.triton_server import Ports

_FLAGS = {
    labels.CATALOGUE_ENV: "--catalogue",
    labels.SCENE_CACHE_ENV: "--store",
    labels.SCENES_ENV: "--load",
    labels.DEFAULT_SCENE_ENV: "--default-scene",
    labels.DEFAULT_SIZE_ENV: "--default-size",
    labels.POD_BUDGET_ENV: "--budget-bytes",
    labels.STORE_CAPACITY_ENV: "--store-capacity-bytes",
    labels.FETCH_LIMIT_ENV: "--fetch-bytes-per-s",
    labels.RASTERIZER_ENV: "--rasterizer",
}


class TritonSettings(VerbSettings):
    model_config = SettingsConfigDict(env_prefix="SPLATFLEET_TRITON_")

    scenes: Path | None = Field(
        None, description="Folder with scenes (PLY, SOG); its manifest.json gives ids if it is there."
    )
    catalogue: Path | None = Field(None, description="Scene catalogue (JSON), instead of --scenes.")
    all: bool = Field(False, description="Take scenes below 1,000 Gaussians, too.")
    http_port: int | None = Field(None, description="Port for HTTP; a free one if not given.", ge=1, le=65535)
    grpc_port: int | None = Field(None, description="Port for gRPC; a free one if not given.", ge=1, le=65535)
    metrics_port: int | None = Field(None, description="Port for metrics; a free one if not given.", ge=1, le=65535)
    load: str = Field("", description="Scene ids, comma-separated, in memory before the server is ready.")
    default_scene: str = Field("", description="Scene of a request that names none; the first one if not given.")
    default_size: str = Field("512x512", description="Size of a request that names none.")
    budget_bytes: int = Field(2 << 30, description="Scenes that the pod may keep in memory, bytes.", gt=0)
    store: Path | None = Field(None, description="Scene store on disk; a temporary one if not given.")
    store_capacity_bytes: int = Field(20 << 30, description="Scenes that the store may keep, bytes.", gt=0)
    fetch_bytes_per_s: float = Field(
        0.0, description="Bandwidth cap of downloads into the store; 0 is none.", ge=0, le=1e15
    )
    rasterizer: Literal["auto", "cpu", "oracle", "gpu"] = Field("auto", description="What renders.")
    sequences: bool = Field(False, description="Serve the model behind the sequence batcher (docs/triton.md).")


def run(settings: TritonSettings) -> int:
    """Start one real renderer server (Triton) on this machine and keep it until Ctrl-C."""
    from local_fleet.triton_files import DEFAULT_BACKENDS
    from local_fleet.triton_server import (
        MODEL_REPOSITORY,
        SEQUENCE_REPOSITORY,
        TritonFailed,
        TritonServer,
        TritonUnavailable,
        build_backends,
    )

    with tempfile.TemporaryDirectory(prefix="splatfleet-triton-") as folder:
        environment = _environment(settings, Path(folder))
        _check(environment)
        repository = SEQUENCE_REPOSITORY if settings.sequences else MODEL_REPOSITORY
        try:
            backends = build_backends(DEFAULT_BACKENDS)
            server = TritonServer(backends, Path(folder), environment, _ports(settings), repository)
        except TritonUnavailable as error:
            raise click.ClickException(str(error)) from error
        ended = threading.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: ended.set())
        try:
            with server:
                server.start()
                server.wait_ready()
                _announce(server.http_address, server.grpc_address, server.metrics_address)
                while not ended.wait(0.5):
                    if server.exit_code() is not None:
                        raise TritonFailed(f"Triton died: {server.reason()}")
        except TritonFailed as error:
            raise click.ClickException(str(error).replace(f" (log: {server.log})", "")) from error
    return 0


def _environment(settings: TritonSettings, folder: Path) -> dict[str, str]:
    catalogue = settings.catalogue.resolve() if settings.catalogue else _catalogue_of(settings, folder)
    return {
        labels.CATALOGUE_ENV: str(catalogue),
        labels.SCENE_CACHE_ENV: str(settings.store.resolve() if settings.store else folder / "store"),
        labels.SCENES_ENV: settings.load,
        labels.DEFAULT_SCENE_ENV: settings.default_scene,
        labels.DEFAULT_SIZE_ENV: settings.default_size,
        labels.POD_BUDGET_ENV: str(settings.budget_bytes),
        labels.STORE_CAPACITY_ENV: str(settings.store_capacity_bytes),
        labels.FETCH_LIMIT_ENV: str(settings.fetch_bytes_per_s),
        labels.RASTERIZER_ENV: settings.rasterizer,
    }


def _check(environment: dict[str, str]) -> None:
    """Refuse here what the pod would refuse, in the words of this command."""
    from renderer.pod_settings import PodSettingsError, read_settings

    try:
        read_settings(environment)
    except PodSettingsError as error:
        text = str(error)
        for variable, flag in _FLAGS.items():
            text = text.replace(f"{variable}=", f"{flag} ")
        raise UsageError(text) from error


def _catalogue_of(settings: TritonSettings, folder: Path) -> Path:
    from renderer.catalogue import save_catalogue
    from renderer.scene_folder import build_catalogue

    if settings.scenes is None:
        raise UsageError("--scenes is needed (a folder), or --catalogue (a file)")
    try:
        catalogue, skipped = build_catalogue(settings.scenes, include_all=settings.all)
    except ValueError as error:
        raise UsageError(f"--scenes: {error}") from error
    for line in skipped:
        click.echo(line, err=True)
    if not catalogue.entries:
        raise click.ClickException(f"{settings.scenes} holds no scene that can be read")
    click.echo(f"{len(catalogue.entries)} scenes: {', '.join(catalogue.entries)}")
    path = folder / "catalogue.json"
    save_catalogue(catalogue, path)
    return path


def _ports(settings: TritonSettings) -> Ports | None:
    from local_fleet.triton_server import Ports, free_ports

    given = {
        "--http-port": settings.http_port,
        "--grpc-port": settings.grpc_port,
        "--metrics-port": settings.metrics_port,
    }
    taken: dict[int, str] = {}
    for flag, port in given.items():
        if port is None:
            continue
        if port in taken:
            raise UsageError(f"{flag} is {port}, and so is {taken[port]}; each needs a port of its own")
        taken[port] = flag
        if not _is_free(port):
            raise click.ClickException(f"{flag} {port}: somebody listens there already; take another, or leave it out")
    if not taken:
        return None
    free = free_ports()
    http, grpc, metrics = given.values()
    return Ports(http or free.http, grpc or free.grpc, metrics or free.metrics)


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # what just closed there does not count
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


def _announce(http: str, grpc: str, metrics: str) -> None:
    matrix = "1,0,0,0,0,1,0,0,0,0,1,3,0,0,0,1"
    lens = "2,0,0,0,0,2,0,0,0,0,1,-0.01,0,0,1,0"
    click.echo(f"renderer is ready: http://{http}  grpc {grpc}  http://{metrics}/metrics")
    click.echo(
        f"try:  splatfleet probe --grpc {grpc}\n"
        f"or:   curl -s http://{http}/v2/models/{labels.MODEL_NAME}/infer -d '"
        f'{{"parameters":{{"format":"png"}},"inputs":['
        f'{{"name":"VIEW_MATRIX","shape":[4,4],"datatype":"FP32","data":[{matrix}]}},'
        f'{{"name":"PROJECTION_MATRIX","shape":[4,4],"datatype":"FP32","data":[{lens}]}}],'
        '"outputs":[{"name":"STATS"}]}' + "'"
    )


COMMAND = verb("triton", TritonSettings, run, "splatfleet triton --scenes scenes/ --http-port 8000 --grpc-port 8001")
