"""A few seconds of the fuzzer, and what longer runs found before."""

from __future__ import annotations

import os
import warnings
from pathlib import Path

import pytest

from renderer.formats import assembly, read
from renderer.splats import SceneFileError
from tests.conftest import REPOSITORY
from tests.renderer.fuzz_formats import fuzz
from tests.renderer.test_formats_hostile import FORMATS, write
from tests.renderer.test_formats_written import scene, within


def test_a_few_seconds_find_nothing(tmp_path: Path) -> None:
    data_dir = Path(os.environ.get("SPLATFLEET_DATA", REPOSITORY / ".." / "shared"))
    tried, scenes, findings = fuzz(6, 0, tmp_path, data_dir if data_dir.is_dir() else None)
    assert findings == []
    assert tried > 200
    assert scenes > tried // 50  # not everything is refused at the first byte


def test_a_signalling_nan_writes_no_warning(tmp_path: Path) -> None:
    """Found by the fuzzer: numpy warned on stderr of what the reader then refused."""
    data = bytearray(write("splat", tmp_path / "a.splat", scene(3, 0)).read_bytes())
    data[0:4] = b"\x01\x00\xa0\x7f"
    (tmp_path / "a.splat").write_bytes(data)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(SceneFileError, match="position of Gaussian 0 is nan"):
            read(tmp_path / "a.splat")


@pytest.mark.parametrize("name", FORMATS)
def test_blocks_leave_no_seam(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same scene in one block and in blocks of 7 Gaussians."""
    path = write(name, tmp_path / "a", scene(300, 0 if name == "splat" else 2))
    whole = read(path)
    monkeypatch.setattr(assembly, "BLOCK", 7)
    within(read(path), whole, position=0, scale=0, opacity=0, colour=0, bands=0, rotation=0.1)
