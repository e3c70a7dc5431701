"""The backend folder out of the wheel, and the words for machines that cannot run it."""

from __future__ import annotations

import platform
import sys
from pathlib import Path

import pytest

from local_fleet import triton_files
from local_fleet.triton_server import TritonUnavailable, build_backends

pytestmark = [pytest.mark.triton, pytest.mark.waits]


def test_built_once(backends: Path) -> None:
    stub = backends / "python" / "triton_python_backend_stub"
    before = stub.stat().st_mtime_ns, stub.stat().st_ino
    assert build_backends(backends.parent) == backends
    assert (stub.stat().st_mtime_ns, stub.stat().st_ino) == before


def test_stub_that_cannot_load_is_found_before_it_hangs_a_server(
    backends: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its libraries are found by a path relative to where the wheel put it, so the copy depends on LD_LIBRARY_PATH."""
    monkeypatch.setattr(triton_files, "library_path", lambda: str(tmp_path))
    with pytest.raises(TritonUnavailable, match=r"the Triton stub cannot load .*libcudart"):
        build_backends(backends.parent)


@pytest.mark.parametrize(
    ("module", "name", "value", "message"),
    [
        (sys, "platform", "darwin", "runs on x86-64 Linux, this is darwin"),
        (platform, "machine", lambda: "aarch64", "runs on x86-64 Linux, this is linux aarch64"),
        (platform, "libc_ver", lambda: ("glibc", "2.31"), "glibc 2.35 or newer, this is 2.31: use Debian 12"),
        (
            triton_files,
            "_python",
            lambda: "3.13",
            "run on Python 3.11 or 3.12, this is 3.13: make the environment anew",
        ),
        (triton_files.np, "__version__", "2.1.0", "numpy 2.1.0 breaks the stub of this Triton: pip install 'numpy<2'"),
    ],
)
def test_unfit_machines_are_told_the_fix(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: object, name: str, value: object, message: str
) -> None:
    monkeypatch.setattr(module, name, value)
    with pytest.raises(TritonUnavailable) as caught:
        build_backends(tmp_path)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
