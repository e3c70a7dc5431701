"""`splatfleet render`: one picture of a scene file."""

from __future__ import annotations

import dataclasses
import json
import math
import time
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click
from pydantic import Field
from pydantic_settings import SettingsConfigDict

from splatfleet.settings import UsageError, VerbSettings, verb

if TYPE_CHECKING:
    from renderer.camera import Camera
    from renderer.rasterizer import Frame

_IMAGES = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}


class RenderSettings(VerbSettings):
    model_config = SettingsConfigDict(env_prefix="SPLATFLEET_RENDER_", populate_by_name=True)

    path: Path = Field(description="Scene file (.ply, .sog) or SOG folder.")
    eye: str = Field("1.9,-1.5,1.9", description="Where the camera stands: x,y,z in scene units (y points down).")
    target: str = Field("0,-0.5,0", description="What it looks at: x,y,z.")
    up: str = Field("0,-1,0", description="What is up in the picture: x,y,z.")
    fov_y: float = Field(50.0, description="Vertical field of view in degrees.")
    size: str = Field("512x512", description="Width x height in pixels.")
    background: str = Field("0,0,0", description="Colour behind the scene: r,g,b in 0..1.")
    rasterizer: Literal["auto", "cpu", "oracle", "gpu"] = Field(
        "auto", description="cpu: compiled; oracle: float64, slow; gpu: gsplat; auto: gpu where it can run."
    )
    sh_degree: int | None = Field(None, ge=0, le=3, description="Highest band of colour to use.")
    gaussian_budget: int | None = Field(
        None, ge=1, description="Draw at most so many Gaussians, an even sample, grown."
    )
    constants: Literal["gsplat-1.5.3", "main"] = Field("gsplat-1.5.3", description="Whose thresholds to draw with.")
    quality: int = Field(92, ge=1, le=100, description="Of JPEG and WebP.")
    out: Path = Field(
        Path("frame.png"), description="Picture (.png .jpg .webp), or .npy for floats [h,w,3] before quantisation."
    )
    json_file: Path | None = Field(None, alias="json", description="Write the figures here.")


def vector(flag: str, text: str) -> tuple[float, float, float]:
    """Three finite numbers out of `1,2,3`; raises UsageError."""
    try:
        x, y, z = (float(part) for part in text.split(","))
    except ValueError as error:
        raise UsageError(f"{flag} is {text!r}, expected three numbers such as 0,-0.5,0") from error
    if not all(map(math.isfinite, (x, y, z))):
        raise UsageError(f"{flag} is {text!r}, expected finite numbers")
    return x, y, z


def _colour(flag: str, text: str) -> tuple[float, float, float]:
    colour = vector(flag, text)
    if not all(0 <= channel <= 1 for channel in colour):
        raise UsageError(f"{flag} is {text!r}, expected three numbers from 0 to 1 such as 0.2,0.2,0.2")
    return colour


def picture_size(text: str) -> tuple[int, int]:
    """(width, height) out of `512x512`; raises UsageError."""
    width, _, height = text.lower().partition("x")
    if not (width.isdecimal() and height.isdecimal() and len(text) < 24):
        raise UsageError(f"--size is {text!r}, expected width x height such as 512x512")
    return int(width), int(height)


def _camera(settings: RenderSettings) -> Camera:
    from renderer.camera import CameraError, look_at

    width, height = picture_size(settings.size)
    eye, target = vector("--eye", settings.eye), vector("--target", settings.target)
    try:
        return look_at(eye, target, vector("--up", settings.up), settings.fov_y, width, height)
    except CameraError as error:
        raise UsageError(str(error)) from error


def _save(frame: Frame, settings: RenderSettings) -> None:
    import numpy as np
    from PIL import Image

    from renderer.rasterizer import to_uint8

    try:
        if settings.out.suffix.lower() == ".npy":
            with settings.out.open("wb") as file:
                np.save(file, frame.rgb)
        else:
            kind = _IMAGES[settings.out.suffix.lower()]
            Image.fromarray(to_uint8(frame.rgb)).save(settings.out, kind, quality=settings.quality)
    except OSError as error:
        raise click.ClickException(f"--out {settings.out}: {error.strerror or error}") from error


def run(settings: RenderSettings) -> None:
    """Render one picture of a scene file."""
    from renderer.constants import CONSTANTS
    from renderer.formats import read
    from renderer.rasterizer import RasterizerUnavailable, choose
    from renderer.splats import SceneFileError

    if settings.out.suffix.lower() not in {*_IMAGES, ".npy"}:
        raise UsageError(f"--out is {str(settings.out)!r}, expected a name that ends in {' '.join(_IMAGES)} or .npy")
    camera, background = _camera(settings), _colour("--background", settings.background)
    started_s = time.perf_counter()
    try:
        rasterize = choose(settings.rasterizer)
        splats = dataclasses.replace(read(settings.path), budget=settings.gaussian_budget)
    except (SceneFileError, RasterizerUnavailable, ValueError) as error:
        raise click.ClickException(str(error)) from error
    constants = CONSTANTS[settings.constants]
    try:
        if settings.rasterizer != "oracle":  # kernels are loaded by the first frame; that is no time of drawing
            rasterize(
                splats, dataclasses.replace(camera, width=1, height=1), background, 0, frozenset({"rgb"}), constants
            )
        loaded_s = time.perf_counter()
        frame = rasterize(splats, camera, background, settings.sh_degree, frozenset({"rgb"}), constants)
    except ValueError as error:
        raise click.ClickException(str(error)) from error
    drawn_s = time.perf_counter()
    _save(frame, settings)
    figures = {
        "gaussians": splats.count,
        "drawn_gaussians": min(splats.count, settings.gaussian_budget or splats.count),
        "sh_degree": splats.sh_degree,
        "width": camera.width,
        "height": camera.height,
        "load_s": loaded_s - started_s,
        "render_s": drawn_s - loaded_s,
        "covered_ratio": float(frame.alpha.mean()),
    }
    if settings.json_file is not None:
        settings.json_file.write_text(json.dumps(figures, indent=1) + "\n")
    click.echo(
        f"{settings.out}: {camera.width}x{camera.height} of {splats.count:,} Gaussians, "
        f"loaded in {figures['load_s']:.2f} s, drawn in {figures['render_s'] * 1000:.0f} ms"
    )


COMMAND = verb(
    "render",
    RenderSettings,
    run,
    "splatfleet scene make knot.ply --shape knot\n"
    "splatfleet render knot.ply --eye 1.9,-1.5,1.9 --target 0,-0.5,0 --up 0,-1,0 --fov-y 45 --out knot.png",
    arguments=["path"],
)
