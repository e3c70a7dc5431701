"""A scene is shown with the credit that its author asks for."""

from __future__ import annotations

from pathlib import Path

import pytest

from renderer.credits import credit_beside
from renderer.scene_folder import build_catalogue

NOTE = """Model Information:
* title:\tPLAYBOT
* source:\thttps://example.org/view
* author:\tStephane Agullo (https://example.org)

* license type:\tCC-BY-4.0 (http://creativecommons.org/licenses/by/4.0/)
"""


def test_the_note_of_the_folder_above_counts(tmp_path: Path) -> None:
    level = tmp_path / "playbot" / "0_0"
    level.mkdir(parents=True)
    (tmp_path / "playbot" / "playbot.txt").write_text(NOTE)
    assert credit_beside(level, tmp_path) == (
        '"PLAYBOT" by Stephane Agullo (https://example.org), https://example.org/view, '
        "CC-BY-4.0 (http://creativecommons.org/licenses/by/4.0/), rendered"
    )


def test_nothing_above_the_root_is_read(tmp_path: Path) -> None:
    (tmp_path / "note.txt").write_text(NOTE)
    (tmp_path / "scenes").mkdir()
    assert credit_beside(tmp_path / "scenes" / "a.ply", tmp_path / "scenes") == ""


@pytest.mark.data
def test_the_real_robot_is_credited(data_dir: Path) -> None:
    catalogue, _ = build_catalogue(data_dir / "scenes")
    credit = catalogue.get("playbot-l2").credit
    assert "PLAYBOT" in credit
    assert "Stephane Agullo" in credit
    assert "CC-BY-4.0" in credit
