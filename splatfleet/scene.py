"""`splatfleet scene`: look into scene files, check them, convert them, make them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

import click
from pydantic import Field
from pydantic_settings import SettingsConfigDict

from splatfleet.scene_publish import COMMAND as PUBLISH
from splatfleet.settings import UsageError, VerbSettings, verb


class InfoSettings(VerbSettings):
    model_config = SettingsConfigDict(env_prefix="SPLATFLEET_SCENE_INFO_")

    path: Path = Field(description="Scene file (.ply, .sog, packed) or SOG folder.")
    format: Literal["text", "json"] = Field("text", description="How to print.")


class ValidateSettings(VerbSettings):
    model_config = SettingsConfigDict(env_prefix="SPLATFLEET_SCENE_VALIDATE_")

    path: Path = Field(description="Scene file (.ply, .sog, packed) or SOG folder.")


class ConvertSettings(VerbSettings):
    model_config = SettingsConfigDict(env_prefix="SPLATFLEET_SCENE_CONVERT_")

    path: Path = Field(description="Scene file or SOG folder to read.")
    out: Path = Field(description="File to write: .ply is Inria PLY, any other name our packed layout.")


class MakeSettings(VerbSettings):
    model_config = SettingsConfigDict(env_prefix="SPLATFLEET_SCENE_MAKE_")

    out: Path = Field(description="File to write: .ply is Inria PLY, any other name our packed layout.")
    shape: Literal["knot", "shell", "planet", "terrain", "lattice", "flower"] = Field(
        "knot", description="What to make."
    )
    gaussians: int = Field(40_000, ge=200, le=5_000_000, description="How many.")
    seed: int = Field(0, ge=0, description="The same arguments give the same bytes.")


def info(settings: InfoSettings) -> None:
    """Print what a scene's header says: format, Gaussians, bytes on disk and in memory."""
    import dataclasses

    from renderer.formats import read_header
    from renderer.splats import SceneFileError

    try:
        header = read_header(settings.path)
    except SceneFileError as error:
        raise click.ClickException(str(error)) from error
    if settings.format == "json":
        click.echo(json.dumps(dataclasses.asdict(header)))
        return
    for name, value in dataclasses.asdict(header).items():
        click.echo(f"{name.replace('_', ' '):<15} {value:,}" if isinstance(value, int) else f"{name:<15} {value}")


def validate(settings: ValidateSettings) -> None:
    """Load a scene whole, checking every value; exits with 1 and one line where it cannot be drawn."""
    from renderer.formats import read
    from renderer.splats import SceneFileError

    try:
        splats = read(settings.path)
    except SceneFileError as error:
        raise click.ClickException(str(error)) from error
    low, high = splats.means.min(axis=0), splats.means.max(axis=0)
    box = " to ".join(" ".join(f"{value:.4g}" for value in corner) for corner in (low, high))
    click.echo(f"{settings.path}: valid, {splats.count:,} Gaussians, SH degree {splats.sh_degree}, box {box}")


def convert(settings: ConvertSettings) -> None:
    """Read a scene and write it as Inria PLY or in our packed layout."""
    from renderer.formats import read
    from renderer.splats import SceneFileError

    try:
        splats = read(settings.path)
    except SceneFileError as error:
        raise click.ClickException(str(error)) from error
    _write(splats, settings.out)


def make(settings: MakeSettings) -> None:
    """Make a scene of a splat object over a floor, about (0, -0.5, 0), y down."""
    from renderer import made

    try:
        splats = made.make(settings.shape, settings.gaussians, settings.seed)
    except ValueError as error:
        raise UsageError(str(error)) from error
    _write(splats, settings.out)


def _write(splats: object, out: Path) -> None:
    from renderer import packed
    from renderer.formats import ply
    from renderer.splats import Splats

    assert isinstance(splats, Splats)
    try:
        if out.suffix.lower() == ".ply":
            ply.write(out, splats)
        else:
            packed.write(splats, out)
    except OSError as error:
        raise click.ClickException(f"{out}: {error.strerror or error}") from error
    click.echo(f"{out}: {splats.count:,} Gaussians, {out.stat().st_size:,} bytes")


COMMAND = click.Group(
    "scene",
    commands=[
        verb("info", InfoSettings, info, "splatfleet scene info knot.ply --format json", arguments=["path"]),
        verb("validate", ValidateSettings, validate, "splatfleet scene validate knot.ply", arguments=["path"]),
        verb(
            "convert",
            ConvertSettings,
            convert,
            "splatfleet scene convert robot.sog robot.ply",
            arguments=["path", "out"],
        ),
        verb("make", MakeSettings, make, "splatfleet scene make knot.ply --shape knot --seed 3", arguments=["out"]),
        PUBLISH,
    ],
    help="Look into, check, convert, make or publish scene files.\n\n\b\nExample:\n  splatfleet scene info knot.ply",
)
