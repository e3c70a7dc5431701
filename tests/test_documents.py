"""What the documents point at is there."""

from __future__ import annotations

import re
import subprocess

import pytest

from tests.conftest import REPOSITORY

_LINK = re.compile(r"\]\(([^)#\s]+)(?:#[^)]*)?\)")


def _documents() -> list[str]:
    found = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "*.md"],
        cwd=REPOSITORY, capture_output=True, text=True, check=False,
    )  # fmt: skip
    return found.stdout.split()


@pytest.mark.parametrize("name", _documents())
def test_links_lead_somewhere_and_nothing_is_left_open(name: str) -> None:
    text = (REPOSITORY / name).read_text()
    assert "@@" not in text
    assert "TODO" not in text
    inside = [link for link in _LINK.findall(text) if "://" not in link and not link.startswith("mailto:")]
    missing = [link for link in inside if not ((REPOSITORY / name).parent / link).exists()]
    assert missing == []
