"""Edges and hostile files: a picture or a refusal that names file, field, value and limit; never a crash (check O8)."""

from __future__ import annotations

import gzip
import json
import os
import re
import struct
import tracemalloc
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import zstandard

from renderer import packed
from renderer.camera import Camera
from renderer.constants import DEFAULT
from renderer.cpu import CpuRasterizer
from renderer.formats import UnknownFormat, ply, read, read_header
from renderer.splats import SceneFileError, Splats, make_splats
from tests.renderer import format_files as files
from tests.renderer import sog_files
from tests.renderer.scenes import front_camera, one_splat, spheres
from tests.renderer.test_formats_written import WRITERS, scene

FORMATS = [*WRITERS, "packed", "spz-v1", "spz-v2"]


def write(name: str, path: Path, splats: Splats) -> Path:
    if name == "packed":
        packed.write(splats, path)
    elif name in ("spz-v1", "spz-v2"):
        files.write_spz(path, splats, int(name[-1]))
    else:
        WRITERS[name](path, splats)
    return path


def centre(splats: Splats, camera: Camera | None = None) -> np.ndarray:  # type: ignore[type-arg]
    camera = camera or front_camera()
    rgb = CpuRasterizer(1)(splats, camera, (0.0, 0.0, 0.0), None, frozenset(), DEFAULT).rgb
    assert np.isfinite(rgb).all()
    middle: np.ndarray = rgb[camera.height // 2, camera.width // 2]  # type: ignore[type-arg]
    return middle


@pytest.mark.parametrize("name", FORMATS)
def test_an_opaque_gaussian_alone_is_drawn(name: str, tmp_path: Path) -> None:
    """gsplat#571: once nothing was drawn."""
    path = write(name, tmp_path / "a", one_splat((0.0, 0.0, 2.0), 0.3, 1.0, (1.0, 0.5, 0.25)))
    np.testing.assert_allclose(centre(read(path)), [1.0, 0.5, 0.25], atol=0.04)


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("scale", [1e-12, 1e3])
def test_needles_and_walls_are_drawn(name: str, scale: float, tmp_path: Path) -> None:
    """A Gaussian beyond any pixel's size is a dot of the blur; one beyond the view is a wall."""
    path = write(name, tmp_path / "a", one_splat((0.0, 0.0, 2.0), scale, 0.9, (1.0, 1.0, 1.0)))
    seen = centre(read(path)).max()
    assert seen > 0.3 if scale > 1 else seen > 0.2


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("count", [1, 255, 257])
def test_any_number_of_gaussians_is_read(name: str, count: int, tmp_path: Path) -> None:
    assert read(write(name, tmp_path / "a", scene(count, 0))).count == count


@pytest.mark.parametrize("name", FORMATS)
def test_every_prefix_is_refused(name: str, tmp_path: Path) -> None:
    """Cut off anywhere (at 60 places, the ends of headers among them); only .splat may be whole there."""
    whole = write(name, tmp_path / "a", scene(20, 0 if name == "splat" else 1)).read_bytes()
    places = sorted({int(i) for i in np.linspace(0, len(whole) - 1, 60)} | {15, 16, 31, 32, 33, 63, 64, 4096, 5120})
    (tmp_path / "b").mkdir()
    suffix = {"splat": ".splat", "ply": ".ply", "compressed-ply": ".ply"}.get(name, "." + name.split("-")[0])
    path = tmp_path / "b" / f"a{suffix}"
    for place in (place for place in places if place < len(whole)):
        path.write_bytes(whole[:place])
        if name == "splat" and place and place % 32 == 0:
            assert read(path).count == place // 32
            continue
        if name.startswith("ksplat") and place >= len(whole) - 3 * 60:
            continue  # the room for more at the end of a section may be missing
        with pytest.raises(SceneFileError) as caught:
            read(path)
        assert "\n" not in str(caught.value)
        assert str(caught.value).startswith(str(path))


def put(at: int, fmt: str, *values: float) -> Callable[[bytes], bytes]:
    def change(data: bytes) -> bytes:
        changed = bytearray(data)
        struct.pack_into("<" + fmt, changed, at, *values)
        return bytes(changed)

    return change


def unpacked(change: Callable[[bytes], bytes]) -> Callable[[bytes], bytes]:
    return lambda data: gzip.compress(change(gzip.decompress(data)))


NAN, INF = float("nan"), float("inf")
SECTION = 4096
LIES: list[tuple[str, Callable[[bytes], bytes], str]] = [
    ("splat", put(0, "f", NAN), "position of Gaussian 0 is nan; -1e+07 to 1e+07"),
    ("splat", put(32 * 7, "f", 2e7), "position of Gaussian 7 is 20000000.0"),
    ("splat", put(32 * 3 + 12, "f", -0.5), "scale of Gaussian 3 is -0.5; 0 to 1e+06"),
    ("splat", put(32 * 3 + 12, "f", 1e7), "scale of Gaussian 3 is 10000000.0"),
    ("splat", put(32 * 3 + 28, "4B", 128, 128, 128, 128), "rotation of Gaussian 3 is a zero quaternion"),
    ("splat", lambda data: data + b"\0", "length is 641 bytes"),
    ("splat", lambda data: data[:0], "length is 0 bytes"),
    ("ksplat", put(0, "B", 1), "version is 1.1"),
    ("ksplat", put(1, "B", 0), "version is 0.0"),
    ("ksplat", put(4, "I", 2**32 - 1), "sections is 4294967295"),
    ("ksplat", put(4, "I", 4000), "length is"),
    ("ksplat", put(16, "I", 2**32 - 1), "Gaussians is 4294967295"),
    ("ksplat", put(16, "I", 21), "Gaussians is 21; its sections hold 20"),
    ("ksplat", put(16, "I", 0), "Gaussians is 0"),
    ("ksplat", put(20, "H", 3), "compression level is 3"),
    ("ksplat", put(36, "f", NAN), "bounds of SH is nan"),
    ("ksplat", put(SECTION, "II", 200_000_000, 200_000_000), "Gaussians is 20; its sections hold 200000000"),
    ("ksplat", put(SECTION + 4, "I", 2), "Gaussians of section 0 is 20; at most 2"),
    ("ksplat", put(SECTION + 4, "I", 2**32 - 1), "Gaussians of section 0 is 20; at most 200000000"),
    ("ksplat", put(SECTION + 8, "I", 0), "room in buckets is"),
    ("ksplat", put(SECTION + 12, "I", 2**32 - 1), "length is"),
    ("ksplat", put(SECTION + 12, "I", 1), "buckets of section 0 is 1 + 2; it has 1"),
    ("ksplat", put(SECTION + 16, "f", INF), "block size of section 0 is inf"),
    ("ksplat", put(SECTION + 16, "f", 1e30), "position of Gaussian"),
    ("ksplat", put(SECTION + 20, "H", 8), "bucket bytes of section 0 is 8"),
    ("ksplat", put(SECTION + 32, "I", 2**32 - 1), "buckets of section 0"),
    ("ksplat", put(SECTION + 40, "H", 9), "SH degree of section 0 is 9"),
    ("ksplat", put(5120 + 8, "f", NAN), "position of Gaussian 0 is nan"),
    ("spz", unpacked(put(0, "4s", b"NGSQ")), "magic is b'NGSQ'"),
    ("spz", unpacked(put(4, "I", 0)), "version is 0"),
    ("spz", unpacked(put(4, "I", 5)), "version is 5"),
    ("spz", unpacked(put(8, "I", 0)), "Gaussians is 0"),
    ("spz", unpacked(put(8, "I", 2**32 - 1)), "Gaussians is 4294967295"),
    ("spz", unpacked(put(8, "I", 199_999_999)), "length is"),
    ("spz", unpacked(put(8, "I", 21)), "payload is"),
    ("spz", unpacked(put(8, "I", 19)), "payload is longer than its header tells"),
    ("spz", unpacked(put(12, "B", 5)), "SH degree is 5"),
    ("spz", unpacked(put(13, "B", 200)), "fraction bits is 200"),
    ("spz", unpacked(lambda data: put(14, "B", 2)(data) + b"\3\0\xbe\xad\4"), "extensions is 5 bytes left over"),
    ("spz", unpacked(lambda data: put(14, "B", 2)(data) + b"\3\0\xbe\xad\4\0\0\0\x09\0"), "length of extension"),
    ("spz", unpacked(lambda data: put(14, "B", 2)(data) + files.coordinate_system(9)), "coordinate system is 9"),
    ("spz", unpacked(lambda data: data + files.coordinate_system(6)), "payload is longer"),
    ("spz", lambda data: data[:-8] + b"\1" * 8, "gzip stream is"),
    ("spz", lambda data: data[:-4], "gzip stream is without its end"),
    ("spz-v4", put(8, "I", 21), "raw bytes of positions is"),
    ("spz-v4", put(15, "B", 5), "streams is 5; SH degree 1 takes 6"),
    ("spz-v4", put(16, "I", 31), "start of the table of contents is 31"),
    ("spz-v4", put(16, "I", 2**32 - 1), "start of the table of contents is"),
    ("spz-v4", put(32, "Q", 2**63), "length is"),
    ("spz-v4", put(40, "Q", 2**63), "raw bytes of positions"),
    ("spz-v4", lambda data: data + b"\0", "length is"),
    ("spz-v4", put(32 + 96, "I", 0xFFFFFFFF), "zstd stream of positions is"),
    ("spz-v1", unpacked(put(16 + 6, "e", NAN)), "position of Gaussian 1 is nan"),
    ("compressed-ply", lambda data: data.replace(b"vertex 20", b"vertex 21"), "element sh is 20; expected 21"),
    ("compressed-ply", lambda data: data.replace(b"vertex 20", b"vertex 2000"), "element chunk is 1; expected 8"),
    ("compressed-ply", lambda data: data.replace(b"chunk 1", b"chunk 9"), "element chunk is 9; expected 1"),
    ("compressed-ply", lambda data: data.replace(b"float min_x", b"int min_x"), "properties of chunk is"),
    ("compressed-ply", lambda data: data.replace(b"uchar f_rest_8\n", b"uchar f_rest_9\n"), "properties of sh"),
    ("compressed-ply", lambda data: data.replace(b"property uchar f_rest_8\n", b""), "properties of sh is 8"),
    ("compressed-ply", lambda data: data.replace(b"binary_little_endian", b"ascii"), "format is ascii"),
    ("compressed-ply", lambda data: data.replace(b"element sh", b"element vertex"), "elements is"),
    ("compressed-ply", lambda data: data + b"\0", "length is"),
    ("packed", put(64, "f", NAN), "sha256 is another"),
]


@pytest.mark.parametrize(("name", "change", "message"), LIES)
def test_a_lying_file_is_refused(name: str, change: Callable[[bytes], bytes], message: str, tmp_path: Path) -> None:
    path = tmp_path / f"a.{name.split('-')[0] if name != 'compressed-ply' else 'ply'}"
    write(name, path, scene(20, 0 if name == "splat" else 1))
    path.write_bytes(change(path.read_bytes()))
    tracemalloc.start()
    try:
        with pytest.raises(SceneFileError, match="|".join(map(re.escape, message.split("|")))) as caught:
            read(path)
        assert tracemalloc.get_traced_memory()[1] < 8_000_000
    finally:
        tracemalloc.stop()
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(str(path))


def test_a_packed_scene_with_a_true_digest_is_checked_all_the_same(tmp_path: Path) -> None:
    """Whoever writes the digest may write NaN under it."""
    whole = scene(20, 1)
    damages = {"means": "position", "covariances": "error of covariance", "quaternions": "squared length of rotation"}
    for name, message in damages.items():
        arrays = {each: getattr(whole, each).copy() for each in ("means", "quaternions", "scales", "opacities", "sh")}
        arrays["covariances"] = whole.covariances.copy()
        arrays[name][7] = np.nan if name != "quaternions" else 3.0
        packed.write(Splats(**arrays), tmp_path / "a")
        with pytest.raises(SceneFileError, match=f"{message} of Gaussian 7 is"):
            read(tmp_path / "a")


def bomb_gzip(path: Path) -> None:
    """200 MB of zeros in 200 kB, under a header that asks for all of it."""
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    parts = [packer.compress(files.spz_header(3, 10_000_000, 0))]
    parts += [packer.compress(bytes(1 << 20)) for _ in range(200)]
    path.write_bytes(b"".join([*parts, packer.flush()]))


def bomb_gzip_behind_a_modest_header(path: Path) -> None:
    """Four Gaussians are asked for; 200 MB follow."""
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    parts = [packer.compress(files.spz_header(3, 4, 0))]
    parts += [packer.compress(bytes(1 << 20)) for _ in range(200)]
    path.write_bytes(b"".join([*parts, packer.flush()]))


def bomb_of_empty_blocks(path: Path) -> None:
    """Deflate blocks that hold nothing: 30 MB that unpack to no byte at all."""
    path.write_bytes(b"\x1f\x8b\x08\0\0\0\0\0\0\xff" + b"\0\0\0\xff\xff" * 6_000_000)


def bomb_zstd(path: Path) -> None:
    """Tiny streams that each hold 100 million Gaussians of zeros."""
    count = 100_000_000
    packer = zstandard.ZstdCompressor(level=1).compressobj()
    one = b"".join(packer.compress(bytes(1 << 24)) for _ in range(8)) + packer.flush()
    table = b"".join(struct.pack("<QQ", len(one), count * width) for width in (9, 1, 3, 3, 4))
    head = (files.spz_header(4, count, 0, streams=5) + struct.pack("<I", 32)).ljust(32, b"\0")
    path.write_bytes(head + table + one * 5)


def bomb_zstd_behind_a_modest_header(path: Path) -> None:
    """The table tells the truth of four Gaussians; the streams hold 256 MB each."""
    packer = zstandard.ZstdCompressor(level=1).compressobj()
    one = b"".join(packer.compress(bytes(1 << 24)) for _ in range(16)) + packer.flush()
    table = b"".join(struct.pack("<QQ", len(one), 4 * width) for width in (9, 1, 3, 3, 4))
    head = (files.spz_header(4, 4, 0, streams=5) + struct.pack("<I", 32)).ljust(32, b"\0")
    path.write_bytes(head + table + one * 5)


def bomb_zstd_window(path: Path) -> None:
    """A frame that asks the decoder for a window of 3.75 TB."""
    frame = struct.pack("<I", 0xFD2FB528) + b"\x00" + b"\xff" + b"\x01\x00\x00"
    table = b"".join(struct.pack("<QQ", len(frame), 4 * width) for width in (9, 1, 3, 3, 4))
    head = (files.spz_header(4, 4, 0, streams=5) + struct.pack("<I", 32)).ljust(32, b"\0")
    path.write_bytes(head + table + frame * 5)


def bomb_webp(path: Path) -> None:
    """Textures of one colour: 4 million Gaussians in a few kilobytes."""
    from PIL import Image

    folder = path.with_suffix("")
    folder.mkdir()
    content = sog_files.meta() | {"count": 4_000_000, "shN": None}
    (folder / "meta.json").write_text(json.dumps(content))
    Image.new("RGBA", (2000, 2000), (1, 2, 3, 252)).save(folder / "flat.webp", "WEBP", lossless=True, exact=True)
    for name in ("means_l", "means_u", "quats", "scales", "sh0"):
        (folder / f"{name}.webp").write_bytes((folder / "flat.webp").read_bytes())
    (folder / "flat.webp").unlink()
    sog_files.pack(folder, path)


def bomb_zip_directory(path: Path) -> None:
    """A central directory of 200,000 members that are not there."""
    entry = struct.pack("<4s6H3I5H2I", b"PK\1\2", 20, 20, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0) + b"a"
    count = 200_000
    end = struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, 65535, 65535, len(entry) * count, 4, 0)
    path.write_bytes(b"PK\3\4" + entry * count + end)


def bomb_sparse(path: Path) -> None:
    """A .splat of 8 TB that takes no room on the disk."""
    with path.open("wb") as file:
        file.truncate(1 << 43)


def bomb_one_line(path: Path) -> None:
    """An ASCII PLY of 300 MB without a line end."""
    names = ["x", "y", "z", "f_dc_0", "f_dc_1", "f_dc_2", "opacity", "scale_0", "scale_1", "scale_2"]
    names += [f"rot_{i}" for i in range(4)]
    head = ["ply", "format ascii 1.0", "element vertex 9", *(f"property float {n}" for n in names), "end_header", ""]
    with path.open("wb") as file:
        file.write("\n".join(head).encode())
        file.truncate(300_000_000)


BOMBS: dict[str, Callable[[Path], None]] = {
    "gzip.spz": bomb_gzip,
    "modest.spz": bomb_gzip_behind_a_modest_header,
    "empty.spz": bomb_of_empty_blocks,
    "zstd.spz": bomb_zstd,
    "modest-zstd.spz": bomb_zstd_behind_a_modest_header,
    "window.spz": bomb_zstd_window,
    "webp.sog": bomb_webp,
    "directory.sog": bomb_zip_directory,
    "sparse.splat": bomb_sparse,
    "line.ply": bomb_one_line,
}


@pytest.mark.parametrize("name", list(BOMBS))
def test_a_bomb_does_not_go_off(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    BOMBS[name](path)
    before = resident_pages()
    tracemalloc.start()
    try:
        with pytest.raises(SceneFileError) as caught:
            read(path)
        assert tracemalloc.get_traced_memory()[1] < 8_000_000
    finally:
        tracemalloc.stop()
    assert resident_pages() - before < 64 << 20  # what C libraries take is not traced
    assert "\n" not in str(caught.value)


def resident_pages() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_a_pipe_a_device_and_odd_names_are_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.splat")
    for path in (tmp_path / "a.splat", Path("/dev/zero"), Path("/dev/null")):
        with pytest.raises(SceneFileError, match="a device or a pipe"):
            read(path)
    with pytest.raises(SceneFileError, match="embedded null"):
        read(Path("a\0b"))
    folder = sog_files.write(tmp_path / "folder")
    (folder / "quats.webp").unlink()
    os.mkfifo(folder / "quats.webp")
    with pytest.raises(SceneFileError, match="quats.webp is no regular file"):
        read(folder)


@pytest.mark.parametrize("name", ["\ud800.webp", "a\0b.webp", "x" * 5000, "\x1b[31mred.webp"])
def test_odd_names_inside_a_scene_are_one_printable_line(name: str, tmp_path: Path) -> None:
    content = sog_files.meta()
    content["quats"]["files"] = [name]
    with pytest.raises(SceneFileError) as caught:
        read(sog_files.write(tmp_path, content))
    text = str(caught.value)
    assert text.isprintable()
    assert len(text.encode()) < len(str(tmp_path)) + 700


@pytest.mark.parametrize("value", [10**400, 1e300, "x", None, [[1]]])
def test_odd_numbers_in_meta_json_are_refused(value: object, tmp_path: Path) -> None:
    for part, key in (("means", "mins"), ("shN", "codebook"), ("scales", "codebook")):
        content = sog_files.meta()
        content[part][key] = [value] * len(content[part][key])
        with pytest.raises(SceneFileError):
            read(sog_files.write(tmp_path / part, content))
    content = sog_files.meta() | {"version": value}
    with pytest.raises(SceneFileError, match="version"):
        read(sog_files.write(tmp_path / "version", content))


def test_nothing_that_is_no_scene_passes_for_a_splat(tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    path = tmp_path / "source"
    for content in (b"\0" * 6400, rng.bytes(6400), b"# A text of many words.\n " * 640, b"\xff" * 3200, b"hello"):
        path.write_bytes(content)
        with pytest.raises(UnknownFormat):
            read_header(path)


def test_colours_that_cannot_be_trained_are_refused(tmp_path: Path) -> None:
    splats = spheres([(0, 0, 2)], [0.1], [0.5], [(0.5, 0.5, 0.5)])
    bright = make_splats(splats.means, splats.quaternions, splats.scales, splats.opacities, splats.sh + np.float32(2e6))
    ply.write(tmp_path / "a.ply", bright)
    with pytest.raises(SceneFileError, match=re.escape("colour of Gaussian 0 is 2000000.0; -1e+06 to 1e+06")):
        read(tmp_path / "a.ply")


def test_a_deflated_member_of_texture_is_read(tmp_path: Path) -> None:
    folder = sog_files.write(tmp_path / "folder")
    assert read(sog_files.pack(folder, tmp_path / "a.sog", "", zipfile.ZIP_DEFLATED)).count == sog_files.COUNT
