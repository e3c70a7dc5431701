"""PLY: foreign files, every legal variation of one file, and files that lie."""

from __future__ import annotations

import re
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from renderer.formats import UnknownFormat, ply, read, read_header
from renderer.splats import SceneFileError, Splats, resident_bytes
from tests.renderer.scenes import random_splats

NAMES = ["x", "y", "z", "f_dc_0", "f_dc_1", "f_dc_2", "opacity"]
NAMES += [*(f"scale_{i}" for i in range(3)), *(f"rot_{i}" for i in range(4))]
TYPES = {"f4": "float", "f8": "double"}


def table(count: int = 5, rest: int = 0, seed: int = 0) -> dict[str, NDArray[np.float64]]:
    """Columns of a valid file."""
    rng = np.random.default_rng(seed)
    names = [*NAMES, *(f"f_rest_{i}" for i in range(rest))]
    return {name: rng.normal(0, 1, count).astype(np.float32).astype(np.float64) for name in names}


def write(
    path: Path,
    columns: dict[str, NDArray[np.float64]],
    encoding: str = "binary_little_endian",
    kind: str = "f4",
    comments: tuple[str, ...] = (),
    count: int | None = None,
) -> Path:
    """Write a PLY by hand, with the columns in their order; `count` may lie."""
    real = len(columns["x"])
    order = ">" if encoding == "binary_big_endian" else "<"
    header = ["ply", f"format {encoding} 1.0", *(f"comment {text}" for text in comments)]
    header += [f"element vertex {real if count is None else count}"]
    header += [f"property {TYPES[kind]} {name}" for name in columns] + ["end_header", ""]
    rows = np.stack(list(columns.values()), 1)
    if encoding == "ascii":
        body = "".join(" ".join(repr(float(v)) for v in row) + "\n" for row in rows).encode()
    else:
        body = rows.astype(order + kind).tobytes()
    path.write_bytes("\n".join(header).encode() + body)
    return path


def same(a: Splats, b: Splats) -> None:
    for name in ("means", "quaternions", "scales", "opacities", "sh", "covariances"):
        np.testing.assert_allclose(getattr(a, name), getattr(b, name), rtol=1e-5, atol=1e-7, err_msg=name)


def test_activations_are_those_of_the_trainers(tmp_path: Path) -> None:
    columns = table(4)
    splats = read(write(tmp_path / "a.ply", columns))
    np.testing.assert_allclose(splats.scales[:, 1], np.exp(columns["scale_1"]), rtol=1e-6)
    np.testing.assert_allclose(splats.opacities, 1 / (1 + np.exp(-columns["opacity"])), rtol=1e-6)
    raw = np.stack([columns[f"rot_{i}"] for i in range(4)], 1)
    np.testing.assert_allclose(splats.quaternions, raw / np.linalg.norm(raw, axis=1, keepdims=True), rtol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(splats.quaternions, axis=1), 1, atol=1e-6)
    assert not splats.means.flags.writeable


@pytest.mark.parametrize(("rest", "degree"), [(0, 0), (9, 1), (24, 2), (45, 3)])
def test_f_rest_is_channel_major(rest: int, degree: int, tmp_path: Path) -> None:
    columns = table(3, rest)
    splats = read(write(tmp_path / "a.ply", columns))
    assert splats.sh_degree == degree
    for i in range(rest):
        channel, coefficient = divmod(i, rest // 3)
        np.testing.assert_array_equal(splats.sh[:, 1 + coefficient, channel], columns[f"f_rest_{i}"])


def test_order_type_and_encoding_do_not_matter(tmp_path: Path) -> None:
    columns = table(7, 9)
    plain = read(write(tmp_path / "a.ply", columns))
    turned = dict(reversed(columns.items()))
    turned = {"extra": columns["x"], **turned, "nx": columns["y"]}
    for i, (encoding, kind) in enumerate(
        [("binary_little_endian", "f8"), ("binary_big_endian", "f4"), ("ascii", "f4"), ("ascii", "f8")]
    ):
        same(read(write(tmp_path / f"{i}.ply", turned, encoding, kind)), plain)


@pytest.mark.parametrize(
    ("comment", "antialiased"),
    [
        ("SplatRenderMode: mip", True),
        ("SplatRenderMode: default", False),
        ("antialiased 1", True),
        ("antialiased 0", False),
    ],
)
def test_comments_choose_the_antialiased_mode(comment: str, antialiased: bool, tmp_path: Path) -> None:
    assert read(write(tmp_path / "a.ply", table(), comments=(comment,))).antialiased == antialiased


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    splats = random_splats(np.random.default_rng(1), 50, 2, antialiased=True)
    ply.write(tmp_path / "a.ply", splats)
    again = read(tmp_path / "a.ply")
    same(again, splats)
    assert again.antialiased
    header = read_header(tmp_path / "a.ply")
    assert (header.format, header.gaussians, header.sh_degree) == ("ply", 50, 2)
    assert header.resident_bytes == again.nbytes == resident_bytes(50, 2)
    assert header.disk_bytes == (tmp_path / "a.ply").stat().st_size
    resident = sum(
        getattr(again, n).nbytes for n in ("means", "quaternions", "scales", "opacities", "sh", "covariances")
    )
    assert resident == again.nbytes


@pytest.mark.data
def test_a_foreign_file_of_a_trainer(data_dir: Path) -> None:
    splats = read(data_dir / "scenes/ply/train-1000.ply")
    assert (splats.count, splats.sh_degree) == (1000, 3)
    raw = np.frombuffer((data_dir / "scenes/ply/train-1000.ply").read_bytes()[-1000 * 248 :], "<f4").reshape(1000, 62)
    np.testing.assert_array_equal(splats.means, raw[:, 0:3])
    np.testing.assert_array_equal(splats.sh[:, 15, 2], raw[:, 9 + 44])  # the last blue coefficient


@pytest.mark.data
def test_the_same_three_splats_from_another_projects_converter(data_dir: Path) -> None:
    """MetalSplatter's .splat copy: position and scale exact, colour and opacity in bytes, rotation cut to 1/128."""
    folder = data_dir / "scenes/conformance/metalsplatter"
    splats = read(folder / "test-splat.3-points-from-train.ply")
    raw = (folder / "test-splat.3-points-from-train.splat").read_bytes()
    floats = np.frombuffer(raw, "<f4").reshape(3, 8)
    octets = np.frombuffer(raw, "u1").reshape(3, 32)
    np.testing.assert_array_equal(splats.means, floats[:, :3])
    np.testing.assert_allclose(splats.scales, floats[:, 3:6], rtol=1e-6)
    np.testing.assert_allclose(splats.opacities, octets[:, 27] / 255, atol=1 / 255)
    np.testing.assert_allclose(0.5 + 0.28209479177387814 * splats.sh[:, 0], octets[:, 24:27] / 255, atol=1 / 255)
    rotation = (octets[:, 28:].astype(float) - 128) / 128
    np.testing.assert_allclose(splats.quaternions, rotation, atol=1.5 / 128)


@pytest.mark.data
def test_a_foreign_ascii_and_its_binary_twin(data_dir: Path) -> None:
    folder = data_dir / "scenes/conformance/gsplat-rs"
    ascii_file, binary = read(folder / "minimal_ascii.ply"), read(folder / "minimal_binary.ply")
    same(ascii_file, binary)
    np.testing.assert_allclose(ascii_file.means, [[0, 0, 0.5], [0.1, 0.1, 1.2], [0, 0, -0.1]], rtol=1e-6)
    assert ascii_file.opacities[0] == pytest.approx(1 / (1 + np.exp(-0.9)))


def replaced(old: bytes, new: bytes) -> Callable[[bytes], bytes]:
    return lambda data: data.replace(old, new, 1)


DAMAGED = [
    (lambda data: data[:-1], "length is .* 5 Gaussians take"),
    (lambda data: data + b"\0", "length is"),
    (lambda data: data[:60], "end_header; the file is cut off"),
    (replaced(b"vertex 5", b"vertex 6"), "6 Gaussians take"),
    (replaced(b"vertex 5", b"vertex 99999999999999"), "element vertex is 99999999999999"),
    (replaced(b"vertex 5", b"vertex 199999999"), "length is"),
    (replaced(b"vertex 5", b"vertex -5"), "element is vertex -5"),
    (replaced(b"vertex 5", b"vertex 0"), "element vertex is 0"),
    (replaced(b"vertex 5", b"vertex " + b"9" * 3000), "element is vertex 999"),
    (replaced(b"element vertex", b"element chunk 1\nelement vertex"), "properties of chunk is"),
    (replaced(b"property float scale_2\n", b""), "flat 2DGS splats"),
    (replaced(b"property float f_dc_0\n", b""), "without f_dc_0"),
    (replaced(b"property float x\n", b"property list uchar int x\n"), "property is list uchar int x"),
    (replaced(b"property float y\n", b"property float x\n"), "each name once"),
    (replaced(b"property float x\n", b"property float f_rest_0\nproperty float x\n"), "f_rest is 1 properties"),
    (replaced(b"binary_little_endian", b"binary_middle"), "format is binary_middle"),
    (replaced(b"end_header\n", b"comment " + b"x" * 70000 + b"\nend_header\n"), "header is"),
    (replaced(b"end_header\n", (b"comment " + b"x" * 1000 + b"\n") * 70 + b"end_header\n"), "header is over"),
    (replaced(b"format", b"comment SplatRenderMode: 2dgs\nformat"), "SplatRenderMode is 2dgs"),
]


@pytest.mark.parametrize(("damage", "message"), DAMAGED)
def test_a_damaged_or_lying_file_is_refused_in_one_line(
    damage: Callable[[bytes], bytes], message: str, tmp_path: Path
) -> None:
    path = write(tmp_path / "a.ply", table())
    path.write_bytes(damage(path.read_bytes()))
    for call in (read_header, read):
        with pytest.raises(SceneFileError, match=message) as caught:
            call(path)
        assert "\n" not in str(caught.value)
        assert str(caught.value).startswith(str(path))
        assert len(str(caught.value)) < len(str(path)) + 400


BAD_VALUES = [
    ("x", np.nan, "position of Gaussian 2 is nan; -1e+07 to 1e+07 is allowed"),
    ("y", np.inf, "position of Gaussian 2 is inf"),
    ("z", 1e9, "position of Gaussian 2 is 1000000000.0; -1e+07 to 1e+07"),
    ("opacity", np.nan, "opacity of Gaussian 2 is nan"),
    ("f_dc_1", np.inf, "colour of Gaussian 2 is inf"),
    ("f_dc_1", -1e20, "colour of Gaussian 2 is -1"),
    ("scale_1", 500.0, "scale of Gaussian 2 is inf; 0 to 1e+06 is allowed"),
    ("scale_1", 20.0, "scale of Gaussian 2 is 485165"),
    ("scale_1", np.nan, "scale of Gaussian 2 is nan"),
    ("rot_3", np.nan, "rotation of Gaussian 2 is nan"),
    ("rot_3", 1e20, "rotation of Gaussian 2 is 1e+20"),
]


@pytest.mark.parametrize(("name", "value", "message"), BAD_VALUES)
@pytest.mark.parametrize("encoding", ["binary_little_endian", "ascii"])
def test_a_value_that_cannot_be_drawn_is_refused(
    name: str, value: float, message: str, encoding: str, tmp_path: Path
) -> None:
    columns = table()
    columns[name][2] = value
    with pytest.raises(SceneFileError, match=re.escape(message)):
        read(write(tmp_path / "a.ply", columns, encoding))


def test_a_zero_quaternion_is_refused(tmp_path: Path) -> None:
    columns = table()
    for i in range(4):
        columns[f"rot_{i}"][3] = 0
    with pytest.raises(SceneFileError, match="rotation of Gaussian 3 is a zero quaternion"):
        read(write(tmp_path / "a.ply", columns))


@pytest.mark.parametrize("body", [b"1 2 3\n" * 60, b"spam " * 100, b"", b"0 " * 1000])
def test_ascii_rows_that_do_not_fit_the_header_are_refused(body: bytes, tmp_path: Path) -> None:
    path = write(tmp_path / "a.ply", table(), "ascii")
    head, _, _ = path.read_bytes().partition(b"end_header\n")
    path.write_bytes(head + b"end_header\n" + body)
    with pytest.raises(SceneFileError, match=r"payload is|length is"):
        read(path)


def test_a_lying_count_allocates_nothing(tmp_path: Path) -> None:
    for encoding in ("binary_little_endian", "ascii"):
        path = write(tmp_path / f"{encoding}.ply", table(), encoding, count=150_000_000)
        tracemalloc.start()
        try:
            with pytest.raises(SceneFileError, match="length is"):
                read(path)
            assert tracemalloc.get_traced_memory()[1] < 4_000_000
        finally:
            tracemalloc.stop()


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.glb", b"glTF", "glTF"),
        ("a.npz", b"PK\x03\x04", "numpy archive"),
        ("lod-meta.json", b"{}", "streamed SOG"),
        ("a.ply", b"hello", "does not start as PLY"),
        ("a.xyz", b"\x01\x02", "unknown"),
        ("a.xyz", b"", "unknown"),
    ],
)
def test_a_format_without_a_reader_is_named(name: str, content: bytes, said: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    for call in (read_header, read):
        with pytest.raises(UnknownFormat, match=re.escape(said)):
            call(tmp_path / name)


def test_a_path_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(SceneFileError, match="No such file"):
        read_header(tmp_path / "absent.ply")
    with pytest.raises(UnknownFormat, match="a folder without meta"):
        read_header(tmp_path)
