"""A writer of small SOG v2 folders, straight from the format's description and apart from our reader."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

COUNT = 5
WIDTH = HEIGHT = 4  # encoders round up; the rest of the texture is rubbish that must not be read
CODEBOOK = np.linspace(-4, -1, 256)
SH_CODEBOOK = np.linspace(-1, 1, 256)
MINS, MAXS = [-1.0, -2.0, -0.5], [1.0, 1.5, 2.0]


def save(path: Path, rgba: NDArray[np.uint8]) -> None:
    Image.fromarray(rgba, "RGBA").save(path, "WEBP", lossless=True, exact=True)


def texture(rows: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """[N, 4] as [HEIGHT, WIDTH, 4], padded with 77."""
    pixels = np.full((HEIGHT * WIDTH, 4), 77, np.uint8)
    pixels[: len(rows)] = rows
    return pixels.reshape(HEIGHT, WIDTH, 4)


def columns() -> dict[str, NDArray[np.uint8]]:
    """The bytes of every texture, [N, 4]; alpha of quats is 252 + index of the largest of wxyz."""
    rng = np.random.default_rng(4)
    rows = {
        name: rng.integers(0, 256, (COUNT, 4), dtype=np.uint8)
        for name in ("means_l", "means_u", "scales", "sh0", "shN")
    }
    rows["quats"] = rng.integers(60, 196, (COUNT, 4), dtype=np.uint8)
    rows["quats"][:, 3] = [252, 253, 254, 255, 252]
    rows["shN"][:, :2] = [[0, 0], [63, 0], [64, 0], [127, 0], [5, 0]]
    return rows


def centroids() -> NDArray[np.uint8]:
    """Palette of 128 entries of degree 1: two rows of 64 entries, 3 pixels each."""
    pixels = np.random.default_rng(6).integers(0, 256, (2, 64 * 3, 4), dtype=np.uint8)
    pixels[..., 3] = 255
    return pixels


def meta() -> dict[str, Any]:
    return {
        "version": 2,
        "count": COUNT,
        "antialias": True,
        "means": {"mins": MINS, "maxs": MAXS, "files": ["means_l.webp", "means_u.webp"]},
        "scales": {"codebook": CODEBOOK.tolist(), "files": ["scales.webp"]},
        "quats": {"files": ["quats.webp"]},
        "sh0": {"codebook": SH_CODEBOOK.tolist(), "files": ["sh0.webp"]},
        "shN": {
            "count": 128,
            "bands": 1,
            "codebook": SH_CODEBOOK.tolist(),
            "files": ["shN_centroids.webp", "shN_labels.webp"],
        },
    }


def write(folder: Path, content: dict[str, Any] | None = None, **rows: NDArray[np.uint8]) -> Path:
    """Write a SOG folder; `content` and `rows` replace meta.json and textures."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, values in {**columns(), **rows}.items():
        save(folder / ("shN_labels.webp" if name == "shN" else f"{name}.webp"), texture(values))
    save(folder / "shN_centroids.webp", centroids())
    (folder / "meta.json").write_text(json.dumps(content if content is not None else meta()))
    return folder


def pack(folder: Path, out: Path, prefix: str = "", compression: int = zipfile.ZIP_STORED) -> Path:
    """Put a folder into one zip."""
    with zipfile.ZipFile(out, "w", compression) as archive:
        for file in sorted(folder.iterdir()):
            archive.write(file, prefix + file.name)
    return out
