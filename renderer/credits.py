"""Whom to credit for a scene: the note that asset sites put beside a download, lines of `* title:`, `* author:`, …"""

from __future__ import annotations

import re
from pathlib import Path

_LINE = re.compile(r"^\*\s*(title|author|source|license type):\s*(.+?)\s*$", re.MULTILINE)
_MAX_NOTE_BYTES = 64 * 1024


def credit_beside(scene: Path, root: Path) -> str:
    """The credit line of the first such note in the scene's folder or one above it, not beyond `root`; else empty.

    What we show is a picture of the work and not the work, so the line says that it is rendered.
    """
    folder = scene if scene.is_dir() else scene.parent
    while folder.is_relative_to(root):
        for note in sorted(folder.glob("*.txt")):
            if note.is_file() and note.stat().st_size <= _MAX_NOTE_BYTES:
                found = dict(_LINE.findall(note.read_text(errors="replace")))
                if "title" in found and "author" in found:
                    rest = [found[name] for name in ("source", "license type") if name in found]
                    return ", ".join([f'"{found["title"]}" by {found["author"]}', *rest, "rendered"])
        if folder == root:
            break
        folder = folder.parent
    return ""
