"""A mutation fuzzer of the readers: any file is a scene or a SceneFileError, soon and in little memory.

`python -m tests.renderer.fuzz_formats --seconds 600 --seed 1` keeps what it finds in --out.
"""

from __future__ import annotations

import argparse
import gzip
import json
import re
import resource
import struct
import tempfile
import time
import traceback
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from renderer.camera import look_at
from renderer.constants import DEFAULT
from renderer.cpu import CpuRasterizer
from renderer.formats import read, read_header
from renderer.splats import SceneFileError, Splats, resident_bytes
from tests.renderer import format_files, sog_files, test_ply
from tests.renderer.test_formats_hostile import FORMATS, write
from tests.renderer.test_formats_written import scene

SLOW_S = 5.0
MEMORY_BYTES = 1 << 30
NUMBERS = [0, 1, 2, 3, 4, 5, 7, 8, 16, 127, 128, 255, 256, 257, 32767, 32768, 65535, 1 << 20, 1 << 24, 199_999_999]
NUMBERS += [(1 << 31) - 1, 1 << 31, (1 << 32) - 1, 1 << 33, (1 << 63) - 1, (1 << 64) - 1]
FLOATS = [0.0, -0.0, 1.0, -1.0, 1e-45, 1e-12, 1e7, 1.1e7, 3e38, -3e38, float("inf"), float("-inf"), float("nan")]
WORDS = [b"0", b"1", b"-1", b"256", b"4294967296", b"1e999", b"nan", b"null", b"true", b"[]", b"{}", b'"x"', b"[[[["]
WORDS += [b"property list uchar int a\n", b"property float x\n", b"element vertex 9\n", b"element chunk 1\n", b"ascii"]
WORDS += [
    b"end_header\n",
    b"binary_big_endian",
    b"comment SplatRenderMode: 2dgs\n",
    b"uchar",
    b"double",
    b"\xff",
    b"\n",
]
Rng = np.random.Generator


class Finding(Exception):
    """What a reader must not do."""


def mutate(data: bytes, rng: Rng, other: bytes) -> bytes:
    """A few random changes: bits, numbers, words, cuts, repeats, and pieces of another file."""
    out = bytearray(data)
    for _ in range(int(rng.integers(1, 6))):
        if not out:
            return bytes(out)
        near = 200 if rng.random() < 0.6 else len(out)  # headers are where lies pay
        at = int(rng.integers(0, min(near, len(out))))
        CHANGES[int(rng.integers(0, len(CHANGES)))](out, at, rng, other)
    return bytes(out)


def flip(out: bytearray, at: int, rng: Rng, _other: bytes) -> None:
    out[at] ^= 1 << int(rng.integers(0, 8))


def set_byte(out: bytearray, at: int, rng: Rng, _other: bytes) -> None:
    out[at] = int(rng.choice([0, 1, 0x7F, 0x80, 0xFF, int(rng.integers(0, 256))]))


def set_number(out: bytearray, at: int, rng: Rng, _other: bytes) -> None:
    size = int(rng.choice([2, 4, 8]))
    at -= at % (4 if rng.random() < 0.8 else 1)
    value = NUMBERS[int(rng.integers(0, len(NUMBERS)))] % (1 << 8 * size)
    out[at : at + size] = value.to_bytes(size, "little")


def set_float(out: bytearray, at: int, rng: Rng, _other: bytes) -> None:
    at -= at % 4
    out[at : at + 4] = struct.pack("<f", FLOATS[int(rng.integers(0, len(FLOATS)))])


def set_word(out: bytearray, at: int, rng: Rng, _other: bytes) -> None:
    """Replace or insert, at the start of a word where there is one."""
    word = WORDS[int(rng.integers(0, len(WORDS)))]
    found = re.search(rb"[\s\[,:]\S", bytes(out[at : at + 40]))
    at += found.start() + 1 if found else 0
    end = at + (len(word) if rng.random() < 0.5 else 0)
    out[at:end] = word


def set_digits(out: bytearray, _at: int, rng: Rng, _other: bytes) -> None:
    """Another number where text has one."""
    found = list(re.finditer(rb"\d+", bytes(out[:2000])))
    if found:
        spot = found[int(rng.integers(0, len(found)))]
        out[spot.start() : spot.end()] = str(NUMBERS[int(rng.integers(0, len(NUMBERS)))]).encode()


def cut(out: bytearray, at: int, _rng: Rng, _other: bytes) -> None:
    del out[at:]


def drop(out: bytearray, at: int, rng: Rng, _other: bytes) -> None:
    del out[at : at + int(rng.integers(1, 64))]


def repeat(out: bytearray, at: int, rng: Rng, _other: bytes) -> None:
    piece = out[at : at + int(rng.integers(1, 300))]
    out[at:at] = piece * int(rng.integers(1, 5))


def splice(out: bytearray, at: int, rng: Rng, other: bytes) -> None:
    start = int(rng.integers(0, max(1, len(other))))
    out[at : at + 16] = other[start : start + int(rng.integers(1, 400))]


CHANGES: list[Callable[[bytearray, int, Rng, bytes], None]] = [
    flip, set_byte, set_number, set_number, set_float, set_word, set_digits, cut, drop, repeat, splice,
]  # fmt: skip


def seeds(folder: Path, data_dir: Path | None) -> dict[str, bytes]:
    """Small files of every format by name, foreign ones included where they are at hand."""
    found = {}
    for name in FORMATS:
        degree = 0 if name == "splat" else 2
        suffix = "ply" if name == "compressed-ply" else name.split("-")[0]
        path = write(name, folder / "seed", scene(20, degree))
        found[f"{name}.{suffix}"] = path.read_bytes()
    found["ascii.ply"] = test_ply.write(folder / "seed", test_ply.table(5, 9), "ascii").read_bytes()
    found["big.ply"] = test_ply.write(folder / "seed", test_ply.table(5, 9), "binary_big_endian", "f8").read_bytes()
    found["bare.spz"] = gzip.decompress(found["spz.spz"])
    extended = format_files.write_spz(folder / "seed", scene(9, 1), 4, format_files.coordinate_system(5))
    found["extended.spz"] = extended.read_bytes()
    sog = sog_files.write(folder / "sog")
    found["stored.sog"] = sog_files.pack(sog, folder / "seed").read_bytes()
    found["deflated.sog"] = sog_files.pack(sog, folder / "seed", "a/", zipfile.ZIP_DEFLATED).read_bytes()
    for path in sorted((data_dir / "scenes/conformance").rglob("*.*")) if data_dir else []:
        found[path.name] = path.read_bytes()
    return found


def variant(name: str, data: bytes, rng: Rng, all_seeds: dict[str, bytes], folder: Path) -> Path:
    """Write one mutant; packed containers are at times opened, changed inside and closed again."""
    other = all_seeds[list(all_seeds)[int(rng.integers(0, len(all_seeds)))]]
    path = folder / ("source" if rng.random() < 0.2 else f"mutant.{name.rsplit('.', 1)[-1]}")
    inside = rng.random() < 0.6
    if inside and data.startswith(b"\x1f\x8b"):
        path.write_bytes(gzip.compress(mutate(gzip.decompress(data), rng, other), 1))
    elif inside and name.endswith(".sog"):
        return sog_variant(rng, other, folder)
    else:
        path.write_bytes(mutate(data, rng, other))
    return path


def sog_variant(rng: Rng, other: bytes, folder: Path) -> Path:
    """A SOG folder with one or two members changed; at times a whole value of meta.json."""
    source, target = folder / "sog", folder / "sog-mutant"
    target.mkdir(exist_ok=True)
    for old in target.iterdir():
        old.unlink()
    for file in source.iterdir():
        data = file.read_bytes()
        if file.name == "meta.json" and rng.random() < 0.5:
            data = json.dumps(changed_value(json.loads(data), rng)).encode()
        elif rng.random() < 0.25:
            data = mutate(data, rng, other)
        if rng.random() < 0.97:
            (target / file.name).write_bytes(data)
    return target


def changed_value(value: object, rng: Rng) -> object:
    """One value somewhere below becomes something odd."""
    odd: list[object] = [None, True, -1, 0, 5.5, 1e308, 10**30, "", "x", "sh0.webp", [], {}, [[1]], [0] * 300, "\ud800"]
    if isinstance(value, dict) and value and rng.random() < 0.9:
        key = list(value)[int(rng.integers(0, len(value)))]
        return {**value, key: changed_value(value[key], rng)}
    if isinstance(value, list) and value and rng.random() < 0.7:
        at = int(rng.integers(0, len(value)))
        return [*value[:at], changed_value(value[at], rng), *value[at + 1 :]]
    return odd[int(rng.integers(0, len(odd)))]


def check(path: Path, draw: bool = False) -> bool:
    """Whether it is a scene; raises Finding for anything but a scene or a refusal in one printable line."""
    started_s = time.monotonic()
    splats: Splats | None = None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # a warning is a line on stderr
            header = read_header(path)
            splats = read(path)
        if (splats.count, splats.sh_degree) != (header.gaussians, header.sh_degree):
            raise Finding(f"header {header} but {splats.count} Gaussians of degree {splats.sh_degree}")
        if splats.nbytes != header.resident_bytes or splats.nbytes != resident_bytes(splats.count, splats.sh_degree):
            raise Finding(f"header says {header.resident_bytes} bytes, {splats.nbytes} are resident")
        check_scene(splats)
        if draw:
            check_picture(splats)
    except SceneFileError as error:
        if not str(error).isprintable() or len(str(error)) > len(str(path)) + 800:
            raise Finding(f"an error that is no line: {error}") from error
    except Finding:
        raise
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        raise Finding("".join(traceback.format_exception(error))) from error
    if time.monotonic() - started_s > SLOW_S:
        raise Finding(f"it took {time.monotonic() - started_s:.1f} s")
    return splats is not None


def check_scene(splats: Splats) -> None:
    for name in ("means", "quaternions", "scales", "opacities", "sh", "covariances"):
        if not np.isfinite(getattr(splats, name)).all():
            raise Finding(f"{name} are not finite")
    if np.abs(np.linalg.norm(splats.quaternions.astype(float), axis=1) - 1).max() > 2e-3:
        raise Finding("quaternions are not unit")


def check_picture(splats: Splats) -> None:
    """What the readers let through can be drawn."""
    camera = look_at((2.0, -1.0, 3.0), (0.0, 0.0, 0.0), (0.0, -1.0, 0.0), 50, 24, 24)
    frame = CpuRasterizer(1)(splats, camera, (0.1, 0.2, 0.3), None, frozenset({"depth", "alpha"}), DEFAULT)
    if not np.isfinite(frame.rgb).all():
        raise Finding("its picture is not finite")


def fuzz(
    seconds: float, seed: int, folder: Path, data_dir: Path | None, draw: bool = False
) -> tuple[int, int, list[str]]:
    """(files tried, scenes among them, findings); files of findings stay in `folder`."""
    rng = np.random.default_rng(seed)
    all_seeds = seeds(folder, data_dir)
    names = list(all_seeds)
    tried, scenes, findings = 0, 0, []
    until_s = time.monotonic() + seconds
    while time.monotonic() < until_s:
        name = names[tried % len(names)]
        path = variant(name, all_seeds[name], rng, all_seeds, folder)
        tried += 1
        try:
            scenes += check(path, draw=draw and tried % 8 == 0)
        except Finding as finding:
            kept = folder / f"finding-{seed}-{tried}-{path.name}"
            path.rename(kept)
            findings.append(f"{kept} (from {name}): {finding}")
    return tried, scenes, findings


def limit_memory() -> None:
    """Let this process take MEMORY_BYTES more address space than it has now."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + MEMORY_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--data", type=Path, default=None, help="Folder with scenes/conformance.")
    parser.add_argument("--out", type=Path, default=None)
    arguments = parser.parse_args()
    folder = arguments.out or Path(tempfile.mkdtemp(prefix="fuzz-"))
    folder.mkdir(parents=True, exist_ok=True)
    check_picture(scene(3, 1))  # compiles, before memory is limited
    limit_memory()
    tried, scenes, findings = fuzz(arguments.seconds, arguments.seed, folder, arguments.data, draw=True)
    print(f"{tried} files, {scenes} of them scenes, {len(findings)} findings in {folder}")
    for finding in findings:
        print("-" * 80, finding, sep="\n")


if __name__ == "__main__":
    main()
