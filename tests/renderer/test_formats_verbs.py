"""`splatfleet scene` on hostile files: exit 0, 1 or 2, one line on stderr, within 20 s and 3 GiB of address space."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from renderer.formats import ply, read
from renderer.splats import make_splats
from tests.renderer import format_files as files
from tests.renderer import sog_files
from tests.renderer.test_formats_hostile import BOMBS
from tests.renderer.test_formats_written import scene

ADDRESS_SPACE_BYTES = 3 << 30
LIMIT_S = 20  # of processor time: a verb that hangs meets the timeout
ARRAYS = ("means", "quaternions", "scales", "opacities", "sh")


def call(*arguments: object) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of `splatfleet scene …` under the limit."""
    before_s = _children_s()
    done = subprocess.run(
        [sys.executable, "-m", "splatfleet", "scene", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE_BYTES, ADDRESS_SPACE_BYTES)),
    )
    assert _children_s() - before_s < LIMIT_S
    return done.returncode, done.stdout, done.stderr


def _children_s() -> float:
    """Processor time of the processes that ended under this one."""
    spent = resource.getrusage(resource.RUSAGE_CHILDREN)
    return spent.ru_utime + spent.ru_stime


def refused(*arguments: object, code: int = 1) -> str:
    """The one line on stderr."""
    got, out, error = call(*arguments)
    assert (got, out) == (code, ""), (got, out, error)
    assert error.startswith("Error: ")
    assert error.count("\n") == 1
    return error


def test_info_validate_convert_and_make_under_the_limit(tmp_path: Path) -> None:
    assert call("make", tmp_path / "a.ply", "--gaussians", 2000)[0] == 0
    assert call("convert", tmp_path / "a.ply", tmp_path / "a.splat")[1].endswith(
        "colours of SH degree 2 became constant\n"
    )
    assert call("convert", tmp_path / "a.splat", tmp_path / "a.packed")[0] == 0
    told = json.loads(call("info", tmp_path / "a.packed", "--format", "json")[1])
    assert (told["format"], told["gaussians"], told["sh_degree"]) == ("packed", 2000, 0)
    code, out, error = call("validate", tmp_path / "a.packed")
    assert (code, error) == (0, "")
    assert "valid, 2,000 Gaussians" in out


def test_bombs_under_the_limit(tmp_path: Path) -> None:
    """One process for all: each is a refusal of one line, and the process never grows beyond 1 GiB."""
    for name, make in BOMBS.items():
        make(tmp_path / name)
    sog_files.write(tmp_path / "cut")
    (tmp_path / "cut" / "sh0.webp").write_bytes(b"RIFF")
    paths = [str(tmp_path / name) for name in [*BOMBS, "cut", "absent"]]
    script = (
        "import json, re, sys, time\n"
        "from click.testing import CliRunner\n"
        "from splatfleet import scene\n"
        "told = []\n"
        "for path in sys.argv[1:]:\n"
        "    for verb in (['info', path], ['validate', path], ['convert', path, path + '.out']):\n"
        "        started = time.process_time()\n"
        "        done = CliRunner().invoke(scene.COMMAND, verb)\n"
        "        told.append([verb[0], path, done.exit_code, done.output, time.process_time() - started])\n"
        "most = re.search(r'VmHWM:[ \\t]+([0-9]+)', open('/proc/self/status').read())[1]\n"
        "print(json.dumps([told, int(most) * 1024]))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, *paths],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE_BYTES, ADDRESS_SPACE_BYTES)),
    )
    assert (done.returncode, done.stderr) == (0, "")
    told, most_bytes = json.loads(done.stdout)
    assert most_bytes < 1 << 30
    for verb, path, code, output, took_s in told:
        honest = verb == "info" and Path(path).name.startswith(("modest", "window", "line", "empty"))
        assert code in ((0, 1) if honest else (1,)), (verb, path, output)
        assert took_s < LIMIT_S
        assert code == 0 or (output.startswith("Error: ") and output.count("\n") == 1), output


def test_a_true_scene_without_room_is_told_before_it_is_loaded(tmp_path: Path) -> None:
    """60 million Gaussians of zeros lie on no disk block, but they are a scene."""
    with (tmp_path / "a.splat").open("wb") as file:
        file.truncate(60_000_000 * 32)
    assert json.loads(call("info", tmp_path / "a.splat", "--format", "json")[1])["gaussians"] == 60_000_000
    assert "loading it takes 5,280,000,000 bytes of memory" in refused("validate", tmp_path / "a.splat")


def test_a_load_takes_little_more_than_the_scene(tmp_path: Path) -> None:
    """1.2 million Gaussians of SH degree 3 take 312 MB; buffers and blocks may add a tenth, the goal is three."""
    one = read(files.write_spz(tmp_path / "a.spz", scene(1000), 3))
    many = make_splats(
        *(np.tile(getattr(one, name), (1200, *([1] * (getattr(one, name).ndim - 1)))) for name in ARRAYS)
    )
    ply.write(tmp_path / "a.ply", many)
    resident_bytes = many.nbytes
    del many
    script = (
        "import re, sys\n"
        "from pathlib import Path\n"
        "from renderer.formats import read\n"
        "most = lambda: int(re.search(r'VmHWM:[ \\t]+([0-9]+)', open('/proc/self/status').read())[1]) * 1024\n"
        "before = most()\n"
        "splats = read(Path(sys.argv[1]))\n"
        "print(most() - before)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, tmp_path / "a.ply"], capture_output=True, text=True, check=True
    )
    assert resident_bytes * 0.9 < int(done.stdout) < resident_bytes * 1.15


WRONG = [
    (["info"], 2),
    (["info", "{dir}/a.ply", "--format", "xml"], 2),
    (["validate", "{dir}/absent.ply"], 1),
    (["validate", "{dir}"], 1),
    (["validate", "/dev/zero"], 1),
    (["convert", "{dir}/a.ply"], 2),
    (["convert", "{dir}/a.ply", "{dir}/a.spz"], 2),
    (["convert", "{dir}/a.ply", "{dir}/absent/b.ply"], 1),
    (["convert", "{dir}/a.ply", "."], 1),
    (["convert", "{dir}/a.ply", "/"], 1),
    (["make", "{dir}/b.ply", "--gaussians", "7"], 2),
    (["make", "{dir}/b.ply", "--shape", "cube"], 2),
    (["make", "{dir}/pipe"], 1),
]


@pytest.mark.parametrize(("arguments", "code"), WRONG)
def test_a_wrong_call_ends_in_one_error_line(arguments: list[str], code: int, tmp_path: Path) -> None:
    from click.testing import CliRunner

    from splatfleet import scene as verbs

    files.write_compressed_ply(tmp_path / "a.ply", scene(256, 1))
    os.mkfifo(tmp_path / "pipe")
    done = CliRunner().invoke(verbs.COMMAND, [argument.format(dir=tmp_path) for argument in arguments])
    assert done.exit_code == code, done.output
    assert sum(line.startswith("Error: ") for line in done.output.splitlines()) == 1
    assert done.exception is None or isinstance(done.exception, SystemExit)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a.ply", "pipe"]
    assert (tmp_path / "pipe").is_fifo()


@pytest.mark.data
@pytest.mark.parametrize("suffix", ["ply", "packed"])
def test_a_foreign_scene_goes_through_convert_unchanged(suffix: str, data_dir: Path, tmp_path: Path) -> None:
    source = data_dir / "scenes/playbot/6_0"
    assert call("convert", source, tmp_path / f"a.{suffix}")[0] == 0
    first, second = read(source), read(tmp_path / f"a.{suffix}")
    for name in ("means", "quaternions", "scales", "opacities", "sh"):
        np.testing.assert_allclose(getattr(second, name), getattr(first, name), rtol=1e-5, atol=1e-6)
