"""`splatfleet scene`: look into scene files, check them, convert them, make them."""

from __future__ import annotations

import contextlib
import json
import os
import resource
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click
from pydantic import Field
from pydantic_settings import SettingsConfigDict

from splatfleet.scene_catalogue import COMMAND as CATALOGUE
from splatfleet.scene_publish import COMMAND as PUBLISH
from splatfleet.settings import UsageError, VerbSettings, verb

if TYPE_CHECKING:
    from renderer.splats import Splats

_NO_WRITER = (".ksplat", ".spz", ".sog", ".npz", ".glb", ".gltf")
_LOADING_SHARE = 1.1  # of what a scene takes once loaded: buffers and one block of temporaries


class InfoSettings(VerbSettings):
    model_config = SettingsConfigDict(env_prefix="SPLATFLEET_SCENE_INFO_")

    path: Path = Field(description="Scene file (.ply, .splat, .ksplat, .spz, .sog, packed) or SOG folder.")
    format: Literal["text", "json"] = Field("text", description="How to print.")


class ValidateSettings(VerbSettings):
    model_config = SettingsConfigDict(env_prefix="SPLATFLEET_SCENE_VALIDATE_")

    path: Path = Field(description="Scene file (.ply, .splat, .ksplat, .spz, .sog, packed) or SOG folder.")


class ConvertSettings(VerbSettings):
    model_config = SettingsConfigDict(env_prefix="SPLATFLEET_SCENE_CONVERT_")

    path: Path = Field(description="Scene file or SOG folder to read.")
    out: Path = Field(description="File to write: .ply is Inria PLY, .splat is .splat, another name our packed layout.")


class MakeSettings(VerbSettings):
    model_config = SettingsConfigDict(env_prefix="SPLATFLEET_SCENE_MAKE_")

    out: Path = Field(description="File to write: .ply is Inria PLY, .splat is .splat, another name our packed layout.")
    shape: Literal["knot", "shell", "planet", "terrain", "lattice", "flower"] = Field(
        "knot", description="What to make."
    )
    gaussians: int = Field(40_000, ge=200, le=5_000_000, description="How many.")
    sh_degree: int = Field(2, ge=0, le=3, description="Highest band of colour: the lamp's highlight is in all of them.")
    seed: int = Field(0, ge=0, description="The same arguments give the same bytes.")


def info(settings: InfoSettings) -> None:
    """Print what a scene's header says: format, Gaussians, bytes on disk and in memory."""
    import dataclasses

    with _told_in_one_line(settings.path):
        from renderer.formats import read_header

        header = read_header(settings.path)
    if settings.format == "json":
        click.echo(json.dumps(dataclasses.asdict(header)))
        return
    for name, value in dataclasses.asdict(header).items():
        click.echo(f"{name.replace('_', ' '):<15} {value:,}" if isinstance(value, int) else f"{name:<15} {value}")


def validate(settings: ValidateSettings) -> None:
    """Load a scene whole, checking every value; exits with 1 and one line where it cannot be drawn."""
    splats = _load(settings.path)
    low, high = splats.means.min(axis=0), splats.means.max(axis=0)
    box = " to ".join(" ".join(f"{value:.4g}" for value in corner) for corner in (low, high))
    click.echo(f"{settings.path}: valid, {splats.count:,} Gaussians, SH degree {splats.sh_degree}, box {box}")


def convert(settings: ConvertSettings) -> None:
    """Read a scene and write it as Inria PLY, as .splat (constant colours only) or in our packed layout."""
    _check_suffix(settings.out)
    _write(_load(settings.path), settings.out)


def make(settings: MakeSettings) -> None:
    """Make a scene of a splat object over a floor, about (0, -0.5, 0), y down."""
    _check_suffix(settings.out)
    with _told_in_one_line(settings.out):
        from renderer import made

        try:
            splats = made.make(settings.shape, settings.gaussians, settings.seed, settings.sh_degree)
        except ValueError as error:
            raise UsageError(str(error)) from error
    _write(splats, settings.out)


def _load(path: Path) -> Splats:
    """Read a scene unless its header tells that there is no room for it."""
    with _told_in_one_line(path):
        from renderer.formats import read, read_header

        need_bytes, free_bytes = int(read_header(path).resident_bytes * _LOADING_SHARE), _free_bytes()
        if need_bytes > free_bytes:
            raise click.ClickException(
                f"{path}: loading it takes {need_bytes:,} bytes of memory, {free_bytes:,} are free"
            )
        return read(path)


def _check_suffix(out: Path) -> None:
    if out.suffix.lower() in _NO_WRITER:
        raise UsageError(f"out is {out}: {out.suffix} has no writer here, expected .ply, .splat or another name")


def _write(splats: Splats, out: Path) -> None:
    with _told_in_one_line(out):
        from renderer import packed
        from renderer.formats import ply, splat

        lost = ""
        match out.suffix.lower():
            case ".ply":
                ply.write(out, splats)
            case ".splat":
                splat.write(out, splats)
                lost = f"; colours of SH degree {splats.sh_degree} became constant" if splats.sh_degree else ""
            case _:
                packed.write(splats, out)
        click.echo(f"{out}: {splats.count:,} Gaussians, {out.stat().st_size:,} bytes{lost}")


@contextlib.contextmanager
def _told_in_one_line(path: Path) -> Iterator[None]:
    """What a file, a disk or too little memory may do to a verb, as one line and exit code 1."""
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # before numpy: a thread each reserves address space
    try:
        from renderer.splats import SceneFileError
    except MemoryError as error:
        raise click.ClickException(f"{path}: there is no memory to begin with") from error
    try:
        yield
    except SceneFileError as error:
        raise click.ClickException(str(error)) from error
    except MemoryError as error:
        raise click.ClickException(f"{path}: there is not enough memory for it ({error})") from error
    except OSError as error:
        raise click.ClickException(f"{path}: {error.strerror or error}") from error


def _free_bytes() -> int:
    """What this process may still take: of the machine's memory, and of its own limit where it has one."""
    free = [int(row.split()[1]) * 1024 for row in _rows("/proc/meminfo") if row.startswith("MemAvailable:")]
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit != resource.RLIM_INFINITY:
        used = [int(row.split()[1]) * 1024 for row in _rows("/proc/self/status") if row.startswith("VmSize:")]
        free.append(max(0, limit - sum(used)))
    return min(free, default=2**63)


def _rows(path: str) -> list[str]:
    """Lines of a file of Linux; none elsewhere."""
    try:
        return Path(path).read_text().splitlines()
    except OSError:
        return []


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
        CATALOGUE,
    ],
    help="Look into, check, convert, make, publish or list scenes.\n\n\b\nExample:\n  splatfleet scene info scene.spz",
)
