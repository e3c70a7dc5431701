"""Our packed cache layout: one file, one read, one slab of memory with the arrays as views into it.

64 bytes of header (little-endian): magic `SPLTPACK`, version u32, SH degree u32, flags u32 (1 antialiased),
reserved u32, Gaussians u64, sha256 of the payload 32 B. Then float32 means, quaternions, scales, opacities,
sh, covariances, each whole, in this order.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import math
import mmap
import os
import struct
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from renderer.splats import (
    MAX_GAUSSIANS,
    MAX_SH_DEGREE,
    Float32,
    SceneFileError,
    Splats,
    coefficients,
    resident_bytes,
)
from renderer.store_files import replacing

MAGIC = b"SPLTPACK"
VERSION = 1
_HEADER = struct.Struct("<8sIIIIQ32s")
_ANTIALIASED = 1
_READ_BYTES = 8 << 20


@dataclass(frozen=True, slots=True)
class PackedHeader:
    """What the first 64 bytes say."""

    gaussians: int
    sh_degree: int
    antialiased: bool
    payload_sha256: bytes

    @property
    def payload_bytes(self) -> int:
        return resident_bytes(self.gaussians, self.sh_degree)


def write(splats: Splats, path: Path) -> None:
    """Write atomically: a temporary file beside `path`, fsync, rename; a reader never sees half of it."""
    payload = [splats.means, splats.quaternions, splats.scales, splats.opacities, splats.sh, splats.covariances]
    digest = hashlib.sha256()
    for array in payload:
        digest.update(array.view(np.uint8).data)
    flags = _ANTIALIASED if splats.antialiased else 0
    header = _HEADER.pack(MAGIC, VERSION, splats.sh_degree, flags, 0, splats.count, digest.digest())
    with replacing(path, durable=True) as file:
        file.write(header)
        for array in payload:
            file.write(array.view(np.uint8).data)


def read_packed_header(path: Path) -> PackedHeader:
    """Read and check the header against the file's length; raises SceneFileError."""
    try:
        with path.open("rb") as file:
            raw = file.read(_HEADER.size)
            size = os.fstat(file.fileno()).st_size
    except OSError as error:
        raise SceneFileError(path, "file", error.strerror or error, "expected a readable packed scene") from error
    if len(raw) < _HEADER.size or not raw.startswith(MAGIC):
        raise SceneFileError(path, "magic", raw[:8], f"expected {MAGIC!r} and {_HEADER.size} bytes of header")
    _, version, degree, flags, _, gaussians, digest = _HEADER.unpack(raw)
    if version != VERSION:
        raise SceneFileError(path, "version", version, f"this build reads {VERSION}; pack the scene again")
    if degree > MAX_SH_DEGREE:
        raise SceneFileError(path, "SH degree", degree, f"at most {MAX_SH_DEGREE} is allowed")
    if not 1 <= gaussians <= MAX_GAUSSIANS:
        raise SceneFileError(path, "Gaussians", gaussians, f"1 to {MAX_GAUSSIANS} are allowed")
    header = PackedHeader(gaussians, degree, bool(flags & _ANTIALIASED), digest)
    if size != _HEADER.size + header.payload_bytes:
        raise SceneFileError(path, "length", f"{size} bytes", f"the header says {_HEADER.size + header.payload_bytes}")
    return header


def read(path: Path, verify: bool = False) -> Splats:
    """Load in one read; `verify` compares the payload with its sha256. Raises SceneFileError."""
    header = read_packed_header(path)
    slab = new_slab(header.payload_bytes // 4)
    view = slab.view(np.uint8).data
    digest = hashlib.sha256()
    # The hash follows the read on a thread of its own: together they take as long as the slower of the two.
    with path.open("rb", buffering=0) as file, ThreadPoolExecutor(1, "sha256") as hashing:
        file.seek(_HEADER.size)
        done = 0
        while done < len(view) and (got := file.readinto(view[done : done + _READ_BYTES])):
            if verify:
                hashing.submit(digest.update, view[done : done + got])
            done += got
    if done != len(view):
        raise SceneFileError(path, "length", f"{done} bytes of payload", f"the header says {len(view)}")
    if verify and digest.digest() != header.payload_sha256:
        raise SceneFileError(
            path, "sha256", "another than the header's", "the file is damaged; fetch and pack it again"
        )
    parts = views(slab, header.gaussians, header.sh_degree)
    return Splats(*parts, header.antialiased)


def new_slab(floats: int) -> Float32:
    """Memory for one scene, a mapping of its own: what goes with the scene goes back to the system whole.

    From the heap, swaps of scenes would leave holes that nobody else fits into. Raises MemoryError.
    """
    try:
        mapping = mmap.mmap(-1, 4 * floats, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    except OSError as error:
        raise MemoryError(f"{4 * floats} bytes for a scene: {error.strerror}") from error
    if hasattr(mmap, "MADV_HUGEPAGE"):
        with contextlib.suppress(OSError):  # a kernel without huge pages
            mapping.madvise(mmap.MADV_HUGEPAGE)
    slab: Float32 = np.frombuffer(mapping, np.float32)
    return slab


def views(slab: Float32, gaussians: int, sh_degree: int) -> tuple[Float32, Float32, Float32, Float32, Float32, Float32]:
    """Means, quaternions, scales, opacities, sh and covariances as views into a slab of exactly their size."""
    tails: tuple[tuple[int, ...], ...] = ((3,), (4,), (3,), (), (coefficients(sh_degree), 3), (6,))
    shapes = [(gaussians, *tail) for tail in tails]
    edges = itertools.accumulate((math.prod(shape) for shape in shapes), initial=0)
    means, quaternions, scales, opacities, sh, covariances = (
        slab[a:b].reshape(shape) for (a, b), shape in zip(itertools.pairwise(edges), shapes, strict=True)
    )
    return means, quaternions, scales, opacities, sh, covariances
