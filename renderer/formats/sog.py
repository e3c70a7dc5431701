"""SOG v1 and v2: meta.json and lossless WebP textures, in a folder or in one zip (.sog).

means: 16 bits = low | high << 8, lerp to mins..maxs, then sign(v)(e^|v| - 1); quats: smallest three, alpha - 252 is
the index of the largest of wxyz; scales and sh0: a codebook of 256 (v1: lerp a channel, opacity as a logit);
shN: a 16-bit label into a palette of centroids, 64 to a texture row, through another codebook.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from renderer.formats import webp
from renderer.formats.assembly import Assembly, check_expansion
from renderer.formats.ply import sigmoid
from renderer.formats.smallest_three import place_largest
from renderer.formats.sog_source import Source, open_source
from renderer.splats import (
    MAX_GAUSSIANS,
    Float32,
    SceneFileError,
    Splats,
    coefficients,
)

MAX_META_BYTES = 1 << 22
MAX_TEXTURE_BYTES = 1 << 30
_PALETTE_COLUMNS = 64
_PIXEL_BYTES = 4
_DEGREE_OF_BANDS = {0: 0, 3: 1, 8: 2, 15: 3}
_QUATERNION_TAG = 252


@dataclass(frozen=True, slots=True)
class SogMeta:
    """What meta.json and the textures' headers say, checked against each other."""

    file: Path
    version: int
    gaussians: int
    sh_degree: int
    disk_bytes: int
    content: dict[str, Any]

    @property
    def format(self) -> str:
        return f"sog-v{self.version}"


def read_meta(path: Path) -> SogMeta:
    """Read meta.json and the sizes of the textures; no texture is decoded. Raises SceneFileError."""
    with open_source(path) as source:
        return _read_meta(source)


def read(path: Path) -> Splats:
    """Load the splats; raises SceneFileError."""
    with open_source(path) as source, np.errstate(over="ignore", under="ignore", invalid="ignore"):
        meta = _read_meta(source)
        scene = Assembly(source.path, meta.gaussians, meta.sh_degree)
        for fill in (_fill_means, _fill_rotations, _fill_scales, _fill_colours):
            fill(source, meta, scene)
        if meta.sh_degree:
            _fill_bands(source, meta, scene)
    for rows in scene.blocks():
        scene.finish(rows)
    return scene.splats(bool(meta.content.get("antialias", False)))


def _read_meta(source: Source) -> SogMeta:
    raw = source.read("meta.json", MAX_META_BYTES)
    try:
        content = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise SceneFileError(source.path, "meta.json", error, "expected JSON") from error
    if not isinstance(content, dict):
        raise SceneFileError(source.path, "meta.json", type(content).__name__, "expected an object")
    version = content.get("version", 1)
    if version not in (1, 2) or not isinstance(version, int) or isinstance(version, bool):
        raise SceneFileError(source.path, "version", version, "SOG 1 and 2 have a reader")
    gaussians = (
        _field(source.path, content, "count") if version == 2 else _first(source.path, content, "means", "shape")
    )
    if not isinstance(gaussians, int) or isinstance(gaussians, bool) or not 1 <= gaussians <= MAX_GAUSSIANS:
        raise SceneFileError(source.path, "count", gaussians, f"1 to {MAX_GAUSSIANS} Gaussians are allowed")
    for part, files in (("means", 2), ("quats", 1), ("scales", 1), ("sh0", 1)):
        for index in range(files):
            _check_texture(source, _file(source.path, content, part, index), gaussians)
    degree = _sh_degree(source, content, gaussians)
    disk_bytes = source.disk_bytes()
    check_expansion(source.path, gaussians * _PIXEL_BYTES * (6 if degree else 5), disk_bytes)
    return SogMeta(source.path, version, gaussians, degree, disk_bytes, content)


def _sh_degree(source: Source, content: dict[str, Any], gaussians: int) -> int:
    """From the width of the centroid texture: 64 palette entries a row, each as wide as the bands have coefficients."""
    if content.get("shN") is None:
        return 0
    _check_texture(source, _file(source.path, content, "shN", 1), gaussians)
    name = _file(source.path, content, "shN", 0)
    width, height = _size(source, name)
    degree = _DEGREE_OF_BANDS.get(width // _PALETTE_COLUMNS)
    if width % _PALETTE_COLUMNS or not degree:
        raise SceneFileError(source.path, f"width of {name}", width, "expected 64 x 3, 8 or 15 pixels")
    if height > 1024:
        raise SceneFileError(source.path, f"height of {name}", height, "labels of 16 bits reach 1024 rows")
    return degree


def _field(path: Path, content: dict[str, Any], *keys: str) -> Any:
    value: Any = content
    for key in keys:
        if not isinstance(value, dict) or key not in value:
            raise SceneFileError(path, ".".join(keys), "absent", "meta.json must have it")
        value = value[key]
    return value


def _first(path: Path, content: dict[str, Any], *keys: str) -> Any:
    value = _field(path, content, *keys)
    return value[0] if isinstance(value, list) and value else value


def _file(path: Path, content: dict[str, Any], part: str, index: int) -> str:
    files = _field(path, content, part, "files")
    name = files[index] if isinstance(files, list) and len(files) > index else None
    if not isinstance(name, str):
        raise SceneFileError(path, f"{part}.files", files, f"expected at least {index + 1} file names")
    return name


def _numbers(meta: SogMeta, part: str, key: str, length: int) -> Float32:
    values = _field(meta.file, meta.content, part, key)
    try:
        array = np.asarray(values, np.float32)
    except (TypeError, ValueError, OverflowError) as error:
        raise SceneFileError(meta.file, f"{part}.{key}", error, f"expected {length} numbers") from error
    if array.shape != (length,) or not np.isfinite(array).all():
        raise SceneFileError(meta.file, f"{part}.{key}", f"shape {array.shape}", f"expected {length} finite numbers")
    return array


def _number(meta: SogMeta, part: str, key: str) -> np.float32:
    value = _first(meta.file, meta.content, part, key)
    if not isinstance(value, int | float) or not abs(value) < 1e30:
        raise SceneFileError(meta.file, f"{part}.{key}", value, "expected a finite number")
    return np.float32(value)


def _size(source: Source, name: str) -> tuple[int, int]:
    try:
        return webp.size_px(source.start(name, 30))
    except webp.WebpError as error:
        raise SceneFileError(source.path, name, error, "expected lossless WebP") from error


def _check_texture(source: Source, name: str, gaussians: int) -> None:
    """A texture holds one pixel a Gaussian, in a rectangle that encoders round up to a few rows."""
    width, height = _size(source, name)
    pixels, most = width * height, 2 * gaussians + 4096
    if not gaussians <= pixels <= most:
        said = f"{gaussians} Gaussians need {gaussians} to {most} pixels"
        raise SceneFileError(source.path, f"size of {name}", f"{width}x{height}", said)


def _texture(source: Source, name: str) -> NDArray[np.uint8]:
    width, height = _size(source, name)
    try:
        pixels = webp.decode(source.read(name, MAX_TEXTURE_BYTES))
    except webp.WebpError as error:
        raise SceneFileError(source.path, name, error, "expected whole, lossless WebP") from error
    if pixels.shape != (height, width, 4):
        raise SceneFileError(source.path, name, f"shape {pixels.shape}", f"its header says {width}x{height}")
    return pixels


def _rows(source: Source, meta: SogMeta, part: str, index: int = 0) -> NDArray[np.uint8]:
    """[N, 4], one row a Gaussian."""
    pixels = _texture(source, _file(meta.file, meta.content, part, index))
    return pixels.reshape(-1, 4)[: meta.gaussians]


def _fill_means(source: Source, meta: SogMeta, scene: Assembly) -> None:
    low, high = _rows(source, meta, "means", 0), _rows(source, meta, "means", 1)
    mins, maxs = _numbers(meta, "means", "mins", 3), _numbers(meta, "means", "maxs", 3)
    step = (maxs - mins) / np.float32(65535)
    for rows in scene.blocks():
        steps = low[rows, :3].astype(np.float32) + 256 * high[rows, :3].astype(np.float32)
        logarithm = mins + steps * step
        scene.means[rows] = np.sign(logarithm) * np.expm1(np.abs(logarithm))


def _fill_rotations(source: Source, meta: SogMeta, scene: Assembly) -> None:
    stored = _rows(source, meta, "quats")
    least = int(stored[:, 3].argmin())
    if stored[least, 3] < _QUATERNION_TAG:
        raise SceneFileError(
            meta.file, f"rotation of Gaussian {least}", f"tag {stored[least, 3]}", "expected 252 to 255"
        )
    for rows in scene.blocks():
        small = (stored[rows, :3] * np.float32(2 / 255) - 1) * np.float32(math.sqrt(0.5))
        scene.quaternions[rows] = place_largest(small, stored[rows, 3].astype(np.intp) - _QUATERNION_TAG)


def _fill_scales(source: Source, meta: SogMeta, scene: Assembly) -> None:
    stored = _rows(source, meta, "scales")
    if meta.version == 2:
        levels = np.exp(_numbers(meta, "scales", "codebook", 256))
        for rows in scene.blocks():
            scene.scales[rows] = levels[stored[rows, :3]]
        return
    mins, maxs = _numbers(meta, "scales", "mins", 3), _numbers(meta, "scales", "maxs", 3)
    for rows in scene.blocks():
        scene.scales[rows] = np.exp(_lerp(stored[rows, :3], mins, maxs))


def _fill_colours(source: Source, meta: SogMeta, scene: Assembly) -> None:
    """Opacities and constant coefficients."""
    stored = _rows(source, meta, "sh0")
    if meta.version == 2:
        levels = _numbers(meta, "sh0", "codebook", 256)
        for rows in scene.blocks():
            scene.sh[rows, 0] = levels[stored[rows, :3]]
            scene.opacities[rows] = stored[rows, 3] / np.float32(255)
        return
    mins, maxs = _numbers(meta, "sh0", "mins", 4), _numbers(meta, "sh0", "maxs", 4)
    for rows in scene.blocks():
        values = _lerp(stored[rows], mins, maxs)
        scene.sh[rows, 0] = values[:, :3]
        scene.opacities[rows] = sigmoid(values[:, 3])


def _lerp(rows: NDArray[np.uint8], mins: Float32, maxs: Float32) -> Float32:
    values: Float32 = mins + rows.astype(np.float32) * ((maxs - mins) / np.float32(255))
    return values


def _fill_bands(source: Source, meta: SogMeta, scene: Assembly) -> None:
    """Higher SH coefficients, from a palette whose texture has 64 entries a row, each of K - 1 pixels."""
    count = coefficients(meta.sh_degree) - 1
    texture = _texture(source, _file(meta.file, meta.content, "shN", 0))[:, :, :3]
    palette = texture.reshape(-1, count, 3)
    if meta.version == 2:
        centroids = _numbers(meta, "shN", "codebook", 256)[palette]
    else:
        lowest, highest = (_number(meta, "shN", key) for key in ("mins", "maxs"))
        centroids = lowest + palette.astype(np.float32) * ((highest - lowest) / np.float32(255))
    stored = _rows(source, meta, "shN", 1)
    for rows in scene.blocks():
        labels = stored[rows, 0].astype(np.intp) | stored[rows, 1].astype(np.intp) << 8
        most = int(labels.argmax())
        if labels[most] >= len(palette):
            field = f"SH label of Gaussian {rows.start + most}"
            raise SceneFileError(meta.file, field, labels[most], f"the palette has {len(palette)}")
        scene.sh[rows, 1:] = centroids[labels]
