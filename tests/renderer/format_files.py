"""Writers of compressed PLY, .splat, .ksplat and SPZ: from the descriptions of the formats, apart from our readers."""

from __future__ import annotations

import gzip
import itertools
import math
import struct
from pathlib import Path

import numpy as np
import zstandard
from numpy.typing import NDArray

from renderer.splats import Splats

C0 = 0.28209479177387814
Array = NDArray[np.float64]


def pad(values: Array, count: int) -> Array:
    """Repeat the last row up to a multiple of `count` rows."""
    return np.concatenate([values, np.repeat(values[-1:], -len(values) % count, axis=0)])


def word(parts: list[tuple[float, int]]) -> int:
    """Fractions 0..1 with their widths in bits, the first one highest."""
    value = 0
    for fraction, width in parts:
        value = value << width | round(min(max(fraction, 0), 1) * ((1 << width) - 1))
    return value


def band_rows(splats: Splats) -> Array:
    """[N, 3 * (K - 1)], channel-major."""
    sh = splats.sh[:, 1:].astype(float)
    return sh.transpose(0, 2, 1).reshape(len(sh), -1)


def write_compressed_ply(path: Path, splats: Splats, colour_bounds: bool = True) -> Path:
    """Chunks of 256 in the order of the file; SH bands where the splats have any."""
    means, logs = splats.means.astype(float), np.log(splats.scales.astype(float))
    colours = 0.5 + C0 * splats.sh[:, 0].astype(float)
    quaternions, opacities = splats.quaternions.astype(float), splats.opacities.astype(float)
    chunks, vertices = b"", b""
    for start in range(0, splats.count, 256):
        rows = slice(start, start + 256)
        groups = [means[rows], logs[rows], *([colours[rows]] if colour_bounds else [])]
        bounds = [(group.min(axis=0), group.max(axis=0)) for group in groups]
        chunks += np.concatenate([np.concatenate(pair) for pair in bounds]).astype("<f4").tobytes()
        for i in range(start, min(start + 256, splats.count)):
            unit = [
                (group[i - start] - low) / np.where(high > low, high - low, 1)
                for group, (low, high) in zip(groups, bounds, strict=True)
            ]
            colour = unit[2] if colour_bounds else colours[i]
            q = quaternions[i]
            largest = int(np.abs(q).argmax())
            small = np.delete(q * np.sign(q[largest]), largest) / math.sqrt(2) + 0.5
            vertices += struct.pack(
                "<4I",
                word(list(zip(unit[0], (11, 10, 11), strict=True))),
                largest << 30 | word([(v, 10) for v in small]),
                word(list(zip(unit[1], (11, 10, 11), strict=True))),
                word([(v, 8) for v in (*colour, opacities[i])]),
            )
    sides = [f"{side}_{part}{axis}" for part in ("", "scale_") for side in ("min", "max") for axis in "xyz"]
    sides += [f"{side}_{channel}" for side in ("min", "max") for channel in "rgb"] if colour_bounds else []
    header = ["ply", "format binary_little_endian 1.0", f"element chunk {-(-splats.count // 256)}"]
    header += [f"property float {side}" for side in sides] + [f"element vertex {splats.count}"]
    header += [f"property uint packed_{name}" for name in ("position", "rotation", "scale", "color")]
    bands = band_rows(splats)
    octets = b""
    if bands.size:
        header += [f"element sh {splats.count}", *(f"property uchar f_rest_{i}" for i in range(bands.shape[1]))]
        octets = np.clip(np.floor((bands / 8 + 0.5) * 256), 0, 255).astype("u1").tobytes()
    path.write_bytes("\n".join([*header, "end_header", ""]).encode() + chunks + vertices + octets)
    return path


def write_splat(path: Path, splats: Splats) -> Path:
    """Rotation is cut to its byte, not rounded, as tools in the wild do."""
    rows = []
    for i in range(splats.count):
        colour = [*(0.5 + C0 * splats.sh[i, 0]), splats.opacities[i]]
        rgba = bytes(min(255, max(0, round(float(v) * 255))) for v in colour)
        rotation = bytes(min(255, max(0, int(float(v) * 128 + 128))) for v in splats.quaternions[i])
        rows.append(struct.pack("<6f", *splats.means[i], *splats.scales[i]) + rgba + rotation)
    path.write_bytes(b"".join(rows))
    return path


def write_ksplat(path: Path, splats: Splats, level: int, sections: int = 1, capacity: int = 16) -> Path:
    """Sections in the order of the file; each has full buckets and, where its count is odd, two partial ones."""
    block, steps = 2.0, 32767
    bounds = (float(splats.sh[:, 1:].min(initial=-0.5)), float(splats.sh[:, 1:].max(initial=0.5)))
    headers, payload = b"", b""
    order = np.argsort(splats.means[:, 0], kind="stable")  # neighbours share a bucket
    for rows in np.array_split(order, sections):
        full, left = divmod(len(rows), capacity)
        partial = [left // 2, left - left // 2] if left > 1 else [left] if left else []
        sizes = [capacity] * full + partial
        ends = [0, *itertools.accumulate(sizes)]
        centres = [splats.means[rows[a:b]].mean(axis=0) if b > a else np.zeros(3) for a, b in itertools.pairwise(ends)]
        block = max([block, *(2.1 * float(np.abs(splats.means[rows[a:b]] - c).max(initial=0))
                              for (a, b), c in zip(itertools.pairwise(ends), centres, strict=True))])  # fmt: skip
        header = struct.pack(
            "<IIIIfHHI4xIIH", len(rows), len(rows) + 3, capacity, len(sizes), block, 12, 0, steps, full, len(partial),
            splats.sh_degree,
        )  # fmt: skip
        headers += header.ljust(1024, b"\0")
        payload += struct.pack(f"<{len(partial)}I", *partial) + np.array(centres, "<f4").tobytes()
        of_bucket = np.repeat(np.arange(len(sizes)), sizes)
        row_bytes = b"".join(
            ksplat_row(splats, int(i), level, bounds, centres[of_bucket[n]], block, steps) for n, i in enumerate(rows)
        )
        payload += row_bytes + bytes(3 * (len(row_bytes) // max(len(rows), 1)))  # room for three more
    header = struct.pack("<BBxxIIIIH14xff", 0, 1, sections, sections, splats.count, splats.count, level, *bounds)
    path.write_bytes(header.ljust(4096, b"\0") + headers + payload)
    return path


def ksplat_row(
    splats: Splats, i: int, level: int, bounds: tuple[float, float], centre: Array, block: float, steps: int
) -> bytes:
    mean, kind = splats.means[i].astype(float), "<f2" if level else "<f4"
    out = np.round((mean - centre) * steps * 2 / block + steps).astype("<u2") if level else mean.astype("<f4")
    data: bytes = out.tobytes() + splats.scales[i].astype(kind).tobytes() + splats.quaternions[i].astype(kind).tobytes()
    colour = [*(0.5 + C0 * splats.sh[i, 0]), splats.opacities[i]]
    data += bytes(min(255, max(0, round(float(v) * 255))) for v in colour)
    for band in range(1, splats.sh_degree + 1):
        values = splats.sh[i, band * band : (band + 1) ** 2].T.astype(float).ravel()  # channel-major in the band
        if level == 2:
            data += np.round((values - bounds[0]) / (bounds[1] - bounds[0]) * 255).astype("u1").tobytes()
        else:
            data += values.astype(kind).tobytes()
    return data


def sh_basis(directions: Array, degree: int) -> Array:
    """Real spherical harmonics [n, K] as 3DGS files use them, of unit directions."""
    x, y, z = directions.T
    columns = [np.full_like(x, C0), -0.4886025119029199 * y, 0.4886025119029199 * z, -0.4886025119029199 * x]
    columns += [1.0925484305920792 * x * y, -1.0925484305920792 * y * z]
    columns += [0.31539156525252005 * (2 * z * z - x * x - y * y), -1.0925484305920792 * x * z]
    columns += [0.5462742152960396 * (x * x - y * y), -0.5900435899266435 * y * (3 * x * x - y * y)]
    columns += [2.890611442640554 * x * y * z, -0.4570457994644658 * y * (4 * z * z - x * x - y * y)]
    columns += [0.3731763325901154 * z * (2 * z * z - 3 * x * x - 3 * y * y)]
    columns += [-0.4570457994644658 * x * (4 * z * z - x * x - y * y), 1.445305721320277 * z * (x * x - y * y)]
    columns += [-0.5900435899266435 * x * (x * x - 3 * y * y)]
    return np.stack(columns[: (degree + 1) ** 2], axis=1)


def seen_in(splats: Splats, axes: tuple[int, int, int]) -> tuple[Array, Array, Array]:
    """Means, quaternions xyzw and SH of the same scene in a frame with flipped axes, by geometry and not by signs.

    Rotations go through their matrices; SH coefficients are fitted so that every direction keeps its colour.
    """
    flip = np.diag(axes).astype(float)
    w, x, y, z = splats.quaternions.astype(float).T
    matrices = np.empty((splats.count, 3, 3))
    matrices[:, 0] = np.stack([1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)], 1)
    matrices[:, 1] = np.stack([2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)], 1)
    matrices[:, 2] = np.stack([2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)], 1)
    quaternions = np.array([quaternion_of(flip @ matrix @ flip) for matrix in matrices])
    directions = np.random.default_rng(0).normal(size=(200, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    degree = splats.sh_degree
    fit = np.linalg.lstsq(sh_basis(directions @ flip, degree), sh_basis(directions, degree), rcond=None)[0]
    return splats.means @ flip, quaternions, np.einsum("jk,nkc->njc", fit, splats.sh.astype(float))


def quaternion_of(matrix: Array) -> Array:
    """xyzw of a rotation, from the eigenvector of its greatest eigenvalue (Bar-Itzhack 2000)."""
    m = matrix
    k = np.array(
        [
            [m[0, 0] - m[1, 1] - m[2, 2], m[1, 0] + m[0, 1], m[2, 0] + m[0, 2], m[2, 1] - m[1, 2]],
            [m[1, 0] + m[0, 1], m[1, 1] - m[0, 0] - m[2, 2], m[2, 1] + m[1, 2], m[0, 2] - m[2, 0]],
            [m[2, 0] + m[0, 2], m[2, 1] + m[1, 2], m[2, 2] - m[0, 0] - m[1, 1], m[1, 0] - m[0, 1]],
            [m[2, 1] - m[1, 2], m[0, 2] - m[2, 0], m[1, 0] - m[0, 1], m[0, 0] + m[1, 1] + m[2, 2]],
        ]
    )
    vector: Array = np.linalg.eigh(k)[1][:, -1]
    return vector


def octets(values: Array) -> bytes:
    return np.clip(np.round(values), 0, 255).astype("u1").tobytes()


def spz_streams(
    splats: Splats, version: int, axes: tuple[int, int, int] = (1, -1, -1), fraction: int = 12
) -> list[bytes]:
    """Positions, alphas, colours, scales, rotations and, where there are any, SH bytes."""
    means, quaternions, sh = seen_in(splats, axes)
    if version == 1:
        positions = means.astype("<f2").tobytes()
    else:
        fixed = np.round(means * 2**fraction).astype("<i4")
        positions = fixed.reshape(-1, 1).view("u1")[:, :3].tobytes()
    rotations = b"".join(spz_rotation(q, version) for q in quaternions)
    bands = sh[:, 1:]
    steps = np.where(np.arange(bands.shape[1]) < 3, 8, 16)[:, None]  # 5 bits for degree 1, 4 above
    stored = np.floor((np.round(bands * 128) + 128 + steps // 2) / steps) * steps
    streams = [
        positions,
        octets(splats.opacities * 255.0),
        octets((sh[:, 0] * 0.15 + 0.5) * 255),
        octets((np.log(splats.scales.astype(float)) + 10) * 16),
        rotations,
        octets(stored),
    ]
    return [stream for stream in streams if stream]


def spz_rotation(q: Array, version: int) -> bytes:
    """One quaternion xyzw."""
    if version < 3:
        return octets(q[:3] * (1 if q[3] >= 0 else -1) * 127.5 + 127.5)
    largest = int(np.abs(q).argmax())
    value = largest
    for i in range(4):
        if i != largest:
            negative = (q[i] < 0) != (q[largest] < 0)
            value = value << 10 | negative << 9 | int(abs(q[i]) * math.sqrt(2) * 511 + 0.5)
    return struct.pack("<I", value)


def spz_header(
    version: int, gaussians: int, degree: int, fraction: int = 12, flags: int = 0, streams: int = 0
) -> bytes:
    return struct.pack("<4sIIBBBB", b"NGSP", version, gaussians, degree, fraction, flags, streams)


def write_spz(
    path: Path, splats: Splats, version: int, extensions: bytes = b"", axes: tuple[int, int, int] = (1, -1, -1)
) -> Path:
    """v1 to v3 in gzip, with extensions after the splats; v4 as zstd streams, with extensions before their table."""
    streams = spz_streams(splats, version, axes)
    flags = splats.antialiased | bool(extensions) << 1
    header = spz_header(version, splats.count, splats.sh_degree, flags=flags, streams=len(streams) * (version == 4))
    if version < 4:
        path.write_bytes(gzip.compress(header + b"".join(streams) + extensions, mtime=0))
        return path
    packed = [zstandard.ZstdCompressor().compress(stream) for stream in streams]
    table = b"".join(struct.pack("<QQ", len(a), len(b)) for a, b in zip(packed, streams, strict=True))
    head = (header + struct.pack("<I", 32 + len(extensions))).ljust(32, b"\0")
    path.write_bytes(head + extensions + table + b"".join(packed))
    return path


def coordinate_system(value: int) -> bytes:
    """The extension record that names the file's axes (6 is right, down, front)."""
    return struct.pack("<III", 0xADBE0003, 4, value)
