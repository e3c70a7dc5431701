"""The report: a page that parses, holds every section, loads nothing and lets nothing through."""

from __future__ import annotations

import json
import re
from collections import Counter
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from xml.etree import ElementTree

import pytest
from PIL import Image

from local_fleet import plots
from local_fleet.frame_sheet import FrameSample, choose, data_url
from local_fleet.load import FrameRecord
from local_fleet.plot_style import DARK, LIGHT, to_svg
from local_fleet.report import MOMENTS_MOST, TITLES, Run, timeline_json, write_report
from local_fleet.scorecard import RunTotals, score
from local_fleet.timeline import Timeline
from tests.local_fleet.synthetic_run import make_frames, make_records, make_run, make_timeline

HOSTILE = "<script>alert(1)</script>\"'&$x$"
VOID = {"meta", "img", "br", "link", "hr"}


class Page(HTMLParser):
    """Reads a page strictly: every element closed in order, all attributes kept."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: Counter[str] = Counter()
        self.attributes: list[tuple[str, str, str]] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == [], f"not closed: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_startendtag(tag, attrs)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements[tag] += 1
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open[-1] == tag, f"</{tag}> closes <{self.open[-1]}>"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(self.words)

    def values(self, *names: str) -> list[str]:
        return [value for _, name, value in self.attributes if name in names]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return make_run(tmp_path_factory.mktemp("frames"))


@pytest.fixture(scope="module")
def folder(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("report") / "new" / "out"
    assert write_report(out, run) == out / "report.html"
    return out


@pytest.fixture(scope="module")
def page(folder: Path) -> Page:
    return Page((folder / "report.html").read_text(encoding="utf-8"))


def test_the_page_has_every_section(page: Page) -> None:
    ids = page.values("id")
    assert [anchor for anchor in ids if anchor in TITLES] == list(TITLES)
    assert page.elements["svg"] == 5
    assert page.elements["main"] == 1


def test_ids_are_unique_and_every_reference_is_in_the_page(page: Page) -> None:
    ids = page.values("id")
    assert [anchor for anchor, count in Counter(ids).items() if count > 1] == []
    inner = {value[1:] for value in page.values("xlink:href", "href") if value.startswith("#")}
    for value in page.values("clip-path", "fill", "style"):
        inner |= set(re.findall(r"url\(#([^)]+)\)", value))
    assert len(inner) > 5
    assert inner <= set(ids)


def test_the_page_loads_nothing(page: Page, folder: Path) -> None:
    loaded = page.values("src", "href", "xlink:href", "srcset", "data", "action", "poster")
    assert all(value.startswith(("#", "data:image/")) for value in loaded)
    text = (folder / "report.html").read_text()
    assert "://" not in text
    assert "@import" not in text
    assert not re.search(r"url\((?!#)", text)
    assert not {"script", "link", "iframe", "object", "embed"} & page.elements.keys()


def test_the_numbers_of_the_scorecard_are_on_the_page(page: Page, run: Run) -> None:
    assert f"{run.scorecard.violations:,} of {run.scorecard.requests:,} requests" in page.text
    assert "612" in page.text
    assert "41.3 MB" in page.text
    assert "93 %" in page.text
    assert "Example CPU @ 2.6 GHz" in page.text
    assert "192x144" in page.text


def test_decisions_and_frames_are_on_the_page(page: Page, run: Run) -> None:
    assert run.timeline.decisions[0].explanation in page.text
    assert page.elements["img"] == len(run.frames)
    assert all(frame.scene in page.text for frame in run.frames)
    assert "credit of garden" in page.text


def test_axes_have_names_and_units(page: Page) -> None:
    labels = (
        "requests / s",
        "seconds of the replay",
        "CPU %",
        "pods",
        "wait until the render starts",
        "100 ms",
        "day 3",
    )
    assert [label for label in labels if label not in page.text] == []


def test_colours_follow_the_scheme_of_the_reader(folder: Path) -> None:
    text = (folder / "report.html").read_text()
    drawings = text[text.index("<main>") :]
    assert "prefers-color-scheme:dark" in text
    for palette in (LIGHT, DARK):
        assert all(f"--{name}:{colour};" in text for name, colour in palette.named().items())
    assert {match for match in re.findall(r"#[0-9a-f]{6}\b", drawings) if match != "#000000"} == set()
    assert "var(--demand)" in drawings
    assert len(set(LIGHT.named().values())) == len(LIGHT.named())


def test_the_folder_is_small_and_has_the_timeline_and_the_sheet(folder: Path, run: Run) -> None:
    assert sum(path.stat().st_size for path in folder.iterdir()) < 6_000_000
    timeline = json.loads((folder / "timeline.json").read_text())
    assert len(timeline["moments"]) == len(run.timeline.moments)
    assert timeline["moments"][5]["t_s"] == run.timeline.moments[5].t_s
    assert timeline["history_per_s"] == run.timeline.history_per_s
    with Image.open(folder / "frames.png") as sheet:
        assert sheet.width > 1000
        assert len(sheet.convert("RGB").getcolors(1 << 24) or []) > 1000


def test_hostile_names_stay_text(tmp_path: Path) -> None:
    timeline = make_timeline(30.0)
    timeline.title = timeline.placement = HOSTILE
    moments = [
        replace(moment, pods=tuple(replace(pod, node=HOSTILE, uid=HOSTILE, scenes=(HOSTILE,)) for pod in moment.pods))
        for moment in timeline.moments
    ]
    timeline.moments = moments
    timeline.decisions = [replace(d, reason=HOSTILE, explanation=HOSTILE) for d in timeline.decisions]
    records = [replace(record, scene=HOSTILE) for record in make_records(timeline, 200)]
    totals = RunTotals(1.0, 1, settings={HOSTILE: HOSTILE}, machine={"cpu": HOSTILE, "cores": 2})
    frames = [replace(frame, scene=HOSTILE, pod=HOSTILE, credit=HOSTILE) for frame in make_frames(tmp_path, 2)]
    run = Run(timeline, score(records, totals, timeline), records, frames, {HOSTILE: HOSTILE})
    page = Page(write_report(tmp_path / "out", run).read_text())
    assert "script" not in page.elements
    assert not any(name.startswith("on") for _, name, _ in page.attributes)
    assert page.text.count(HOSTILE) > 8
    assert HOSTILE[:28] in page.text  # the scene on the axis of its plot, letter for letter


@pytest.mark.parametrize("moments", [0, 1])
def test_a_run_in_which_nothing_happened_has_a_report(tmp_path: Path, moments: int) -> None:
    timeline = Timeline("nothing", "predictive", "scenes", 120.0, 40.0, 1.0)
    timeline.moments = make_timeline(5.0).moments[:moments]
    run = Run(timeline, score([], RunTotals(0.0, 0), timeline), [])
    page = Page(write_report(tmp_path, run).read_text())
    assert "No decision was made" in page.text
    assert "No frame was kept" in page.text
    assert not (tmp_path / "frames.png").exists()


def test_a_broken_frame_is_left_out(tmp_path: Path) -> None:
    good = make_frames(tmp_path, 1)[0]
    broken = replace(good, path=tmp_path / "broken.jpg", scene="broken")
    broken.path.write_bytes(good.path.read_bytes()[:40])
    missing = replace(good, path=tmp_path / "missing.jpg", scene="missing")
    run = make_run(tmp_path, 10.0)
    page = Page(write_report(tmp_path / "out", replace(run, frames=[broken, good, missing])).read_text())
    assert page.elements["img"] == 1


def test_frames_are_chosen_over_scenes_and_time(tmp_path: Path) -> None:
    path = tmp_path / "x.jpg"
    frames = [FrameSample(path, "often", float(t), "p") for t in range(100)] + [FrameSample(path, "once", 50.5, "p")]
    chosen = choose(frames, 9)
    assert len(chosen) == 9
    assert Counter(frame.scene for frame in chosen) == {"often": 8, "once": 1}
    times_s = [frame.t_s for frame in chosen]
    assert times_s == sorted(times_s)
    assert times_s[0] < 15
    assert times_s[-1] > 85
    assert choose(frames[:3], 9) == frames[:3]


def test_large_frames_are_embedded_smaller(tmp_path: Path) -> None:
    path = tmp_path / "large.png"
    Image.effect_noise((900, 700), 90).save(path)
    assert path.stat().st_size > 400_000
    url = data_url(path)
    assert url.startswith("data:image/jpeg;base64,")
    assert len(url) < 300_000


def test_a_long_timeline_is_thinned_and_says_so() -> None:
    timeline = make_timeline(3.0)
    timeline.moments = timeline.moments * MOMENTS_MOST
    written = json.loads(timeline_json(timeline))
    assert written["moments_every"] == 3
    assert len(written["moments"]) <= MOMENTS_MOST


def test_many_requests_become_one_picture() -> None:
    timeline = make_timeline(20.0)
    records = make_records(timeline, plots.MARKS_MOST * 2)
    svg = to_svg(plots.wait_figure(timeline, records), "wait", LIGHT)
    assert "data:image/png;base64," in svg
    assert len(svg) < 600_000


def test_drawings_are_sound_markup() -> None:
    timeline = make_timeline(20.0)
    svg = to_svg(plots.pods_figure(timeline), "pods", LIGHT)
    root = ElementTree.fromstring(svg.replace("<svg", '<svg xmlns:xlink="x"', 1))
    assert root.find(".//pattern") is not None  # pods that start are hatched
    assert root.attrib["viewBox"].split()[:2] == ["0", "0"]


def test_scene_stretches_merge_and_count_ready_pods() -> None:
    timeline = make_timeline(20.0)
    scene = next(pod.scenes[0] for pod in timeline.moments[-1].pods if pod.stage == "ready")
    found = plots.stretches(timeline, scene)
    assert all(until_s > from_s for from_s, until_s, _ in found)
    total = sum((until_s - from_s) * count for from_s, until_s, count in found)
    held = sum(pod.stage == "ready" and scene in pod.scenes for m in timeline.moments for pod in m.pods)
    assert total == pytest.approx(held)  # one second a moment
    assert all(a[1] < b[0] or a[2] != b[2] for a, b in pairwise(found))


def test_bands_hold_the_quantiles_of_their_requests() -> None:
    records = [
        FrameRecord(t_s, "s", 200, 1.0, 0.0, wait_s=wait_s) for t_s, wait_s in ((0.1, 0.2), (1.9, 0.4), (4.5, 3.0))
    ]
    middle_s, p50_s, p99_s = plots.bands(records, 2.0)
    assert middle_s == [1.0, 5.0]
    assert p50_s == pytest.approx([0.3, 3.0])
    assert p99_s == pytest.approx([0.398, 3.0])
