"""Where the programs are looked for, and what is said when they are not there."""

from __future__ import annotations

from pathlib import Path

import pytest

from local_fleet.control_plane import binaries


def test_missing_programs_name_the_command_that_adds_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(binaries.ASSETS_ENV, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(binaries.BinariesError, match="make control-plane"):
        binaries.find()
    with pytest.raises(binaries.BinariesError, match=r"helm v4\.3\.1.*make control-plane"):
        binaries.find_helm()


def test_a_folder_of_assets_wins_and_must_be_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(binaries.ASSETS_ENV, str(tmp_path))
    for name in binaries.PROGRAMS[:-1]:
        (tmp_path / name).touch(mode=0o755)
    with pytest.raises(binaries.BinariesError, match="lacks kubectl"):
        binaries.find()
    (tmp_path / "kubectl").touch(mode=0o755)
    assert binaries.find().program("kubectl") == tmp_path / "kubectl"


def test_another_version_is_another_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = binaries.cache_folder()
    for name in ("go.mod", "go.sum", "main.go"):
        (tmp_path / name).write_bytes((binaries.MODULE / name).read_bytes())
    monkeypatch.setattr(binaries, "MODULE", tmp_path)
    assert binaries.cache_folder() == before
    (tmp_path / "go.mod").write_text((tmp_path / "go.mod").read_text().replace("v1.36.3", "v1.36.4"))
    assert binaries.cache_folder() != before
