"""The scenes of a demo: those of a folder, or handsome ones made here; each with a camera that sees all of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

import numpy as np
from numpy.typing import NDArray

from renderer import formats
from renderer.catalogue import UP_OF_TRAINED_SCENES, Catalogue, CatalogueEntry, DefaultCamera, Vector, save_catalogue
from renderer.formats.ply import write as write_ply
from renderer.made import EYE, TARGET, make
from renderer.made_shapes import SHAPES
from renderer.scene_folder import build_catalogue
from renderer.splats import Splats

FOV_Y_DEGREES = 50.0
# From a few MB to some tens in memory: big enough that a pod cannot hold them all.
MADE_GAUSSIANS = (40_000, 30_000, 24_000, 20_000, 16_000, 12_000, 10_000, 8_000)


@dataclass(frozen=True, slots=True)
class DemoScenes:
    """What can be asked for. `splats` are kept for the calibration only."""

    catalogue: Catalogue
    catalogue_file: Path
    splats: dict[str, Splats]
    credits: dict[str, str]

    @property
    def ids(self) -> list[str]:
        return list(self.catalogue.entries)

    @property
    def resident_bytes(self) -> dict[str, int]:
        return {scene: splats.nbytes for scene, splats in self.splats.items()}


def gather(
    folder: Path | None, include_all: bool, run_folder: Path, seed: int, note: Callable[[str], None]
) -> DemoScenes:
    """The scenes of `folder`, or made ones; raises ValueError where there is nothing to render."""
    if folder is None:
        folder = make_scenes(run_folder / "made-scenes", seed)
    catalogue, skipped = build_catalogue(folder, include_all)
    for line in skipped:
        note(line)
    if not catalogue.entries:
        raise ValueError(f"--scenes {folder}: no scene that can be rendered")
    splats = {str(scene): formats.read(_path_of(entry)) for scene, entry in catalogue.entries.items()}
    entries = [_with_camera(entry, splats[entry.id]) for entry in catalogue.entries.values()]
    complete = Catalogue(entries)
    file = run_folder / "catalogue.json"
    save_catalogue(complete, file)
    return DemoScenes(complete, file, splats, {entry.id: entry.credit for entry in entries if entry.credit})


def make_scenes(folder: Path, seed: int) -> Path:
    """Write one scene of each made shape as Inria PLY."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, shape in enumerate(sorted(SHAPES)):
        write_ply(folder / f"{shape}.ply", make(shape, MADE_GAUSSIANS[number % len(MADE_GAUSSIANS)], seed))
    return folder


def overview(splats: Splats) -> DefaultCamera:
    """A camera from the side and a little above that sees the middle 96 % of the Gaussians; y is down."""
    low, high = np.percentile(splats.means, [2, 98], axis=0)
    centre = (low + high) / 2
    reach = float(np.linalg.norm(high - low)) or 1.0
    eye = centre + reach * np.array([0.75, -0.35, 0.75])
    return DefaultCamera(_vector(eye), _vector(centre), FOV_Y_DEGREES)


def _vector(values: NDArray[np.float32]) -> Vector:
    x, y, z = (round(float(value), 4) for value in values)
    return (x, y, z)


def _with_camera(entry: CatalogueEntry, splats: Splats) -> CatalogueEntry:
    camera = entry.default_camera or (
        DefaultCamera(EYE, TARGET, FOV_Y_DEGREES) if entry.id in SHAPES else overview(splats)
    )
    return dataclasses.replace(
        entry,
        up=UP_OF_TRAINED_SCENES,
        default_camera=camera,
        resident_bytes=splats.nbytes,
        gaussians=splats.count,
    )


def _path_of(entry: CatalogueEntry) -> Path:
    return Path(unquote(urlsplit(entry.uri).path))
