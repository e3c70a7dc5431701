"""`splatfleet probe`: a tiny frame through the model, the one liveness check that a dead stub cannot pass."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import click
from pydantic import Field
from pydantic_settings import SettingsConfigDict

from fleet.labels import TRITON_GRPC_PORT
from splatfleet.settings import VerbSettings, verb

SIZE_PX = 16


class ProbeSettings(VerbSettings):
    model_config = SettingsConfigDict(env_prefix="SPLATFLEET_PROBE_", populate_by_name=True)

    grpc: str = Field(f"127.0.0.1:{TRITON_GRPC_PORT}", description="gRPC address of the renderer, HOST:PORT.")
    scene: str = Field("", description="Scene to ask for; if not given a frame of no scene, which loads nothing.")
    timeout_s: float = Field(5.0, description="Seconds to wait for the frame.", gt=0, le=3600)
    json_file: Path | None = Field(None, alias="json", description="Write the figures here.")


def run(settings: ProbeSettings) -> int:
    """Ask a renderer for a tiny frame; exit 0 if it came, 1 if not.

    Without a scene the renderer draws a splat of its own: whoever loads or fetches its scenes is alive, too.
    """
    from renderer.camera import look_at, matrices
    from renderer.client import RendererError, render_once

    view, projection = matrices(look_at((0, -1, -4), (0, 0, 0), (0, -1, 0), 50, SIZE_PX, SIZE_PX))
    parameters: dict[str, str | int | float] = {"width": SIZE_PX, "height": SIZE_PX}
    parameters |= {"scene": settings.scene} if settings.scene else {"action": "check"}
    began_s = time.monotonic()
    figures: dict[str, Any] = {"address": settings.grpc, "alive": True}
    try:
        figures["stats"] = render_once(settings.grpc, view, projection, parameters, timeout_s=settings.timeout_s).stats
    except RendererError as error:
        figures |= {"alive": False, "error": error.kind, "message": str(error)}
    figures["seconds"] = time.monotonic() - began_s
    if settings.json_file is not None:
        settings.json_file.write_text(json.dumps(figures, indent=1) + "\n")
    if not figures["alive"]:
        click.echo(f"{settings.grpc}: {figures['error']}: {figures['message']}", err=True)
        return 1
    click.echo(f"{settings.grpc}: alive, {SIZE_PX}x{SIZE_PX} frame in {figures['seconds'] * 1e3:.0f} ms")
    for scene, progress in sorted(figures["stats"].get("fetching", {}).items()):
        click.echo(
            f"{settings.grpc}: scene {scene}: {progress['done_bytes']:,} of {progress['total_bytes']:,} bytes fetched"
        )
    return 0


COMMAND = verb("probe", ProbeSettings, run, "splatfleet probe --grpc 127.0.0.1:8001 --timeout-s 5")
