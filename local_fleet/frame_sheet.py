"""The sheet of rendered frames: a choice over scenes and time, as one picture and as single ones for a page."""

from __future__ import annotations

import base64
import io
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

FRAMES_MOST = 24
CELL_PX = (320, 240)
CAPTION_PX = 40
GAP_PX = 12
EMBED_BYTES = 60_000  # a larger picture goes into the page as a smaller JPEG
GROUND, INK, FAINT = (18, 21, 26), (228, 232, 238), (140, 150, 164)


@dataclass(frozen=True, slots=True)
class FrameSample:
    """One rendered frame for the sheet: a picture file that Pillow reads, and what it shows."""

    path: Path
    scene: str
    t_s: float
    pod: str
    credit: str = ""


def choose(frames: Sequence[FrameSample], most: int = FRAMES_MOST) -> list[FrameSample]:
    """At most so many frames: every scene in turn, spread over the time of each, in the order of time."""
    by_scene: dict[str, list[FrameSample]] = defaultdict(list)
    for frame in sorted(frames, key=lambda frame: frame.t_s):
        by_scene[frame.scene].append(frame)
    share = dict.fromkeys(by_scene, 0)
    while sum(share.values()) < min(most, len(frames)):
        for scene, own in by_scene.items():
            if share[scene] < len(own) and sum(share.values()) < most:
                share[scene] += 1
    chosen = [
        by_scene[scene][(2 * index + 1) * len(by_scene[scene]) // (2 * count)]
        for scene, count in share.items()
        for index in range(count)
    ]
    return sorted(chosen, key=lambda frame: frame.t_s)


def write_sheet(path: Path, frames: Sequence[FrameSample]) -> None:
    """One picture of all frames, each with its scene, its moment and its credit below."""
    columns = min(4, max(1, len(frames)))
    rows = max(1, -(-len(frames) // columns))
    cell = (CELL_PX[0] + GAP_PX, CELL_PX[1] + CAPTION_PX + GAP_PX)
    sheet = Image.new("RGB", (columns * cell[0] + GAP_PX, rows * cell[1] + GAP_PX), GROUND)
    pen = ImageDraw.Draw(sheet)
    bold, plain = ImageFont.load_default(15), ImageFont.load_default(12)
    for number, frame in enumerate(frames):
        x, y = GAP_PX + number % columns * cell[0], GAP_PX + number // columns * cell[1]
        with Image.open(frame.path) as image:
            picture = image.convert("RGB")
        scale = min(CELL_PX[0] / picture.width, CELL_PX[1] / picture.height)
        size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
        left, top = x + (CELL_PX[0] - size[0]) // 2, y + (CELL_PX[1] - size[1]) // 2
        sheet.paste(picture.resize(size, Image.Resampling.LANCZOS), (left, top))
        facts = f"{frame.t_s:.0f} s, {frame.pod}"
        facts_px = plain.getlength(facts)
        pen.text((x, y + CELL_PX[1] + 4), _fit(frame.scene, bold, CELL_PX[0] - facts_px - 8), INK, bold)
        pen.text((x + CELL_PX[0] - facts_px, y + CELL_PX[1] + 6), facts, FAINT, plain)
        pen.text((x, y + CELL_PX[1] + 23), _fit(frame.credit, plain, CELL_PX[0]), FAINT, plain)
    sheet.save(path, optimize=True)


def data_url(path: Path) -> str:
    """A frame for the page itself; JPEG, PNG and WebP as they are where they are small."""
    content = path.read_bytes()
    with Image.open(io.BytesIO(content)) as image:
        kind = image.format or ""
        if kind not in ("JPEG", "PNG", "WEBP") or len(content) > EMBED_BYTES:
            small = image.convert("RGB")
            small.thumbnail((480, 480), Image.Resampling.LANCZOS)
            written = io.BytesIO()
            small.save(written, "JPEG", quality=85)
            content, kind = written.getvalue(), "JPEG"
    return f"data:image/{kind.lower()};base64,{base64.b64encode(content).decode()}"


def _fit(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width_px: float) -> str:
    """The text, its end cut off where it is too long."""
    if font.getlength(text) <= width_px:
        return text
    while text and font.getlength(text + "…") > width_px:
        text = text[:-1]
    return text + "…"
