"""The viewer in a real browser, in front of real Triton pods; screenshots stay in out/viewer/."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest

from fleet.labels import DATA_ENV, GATEWAY_TOKENS_ENV
from fleet.scene import SceneId
from local_fleet.scenes import overview
from local_fleet.triton_server import TritonServer
from renderer import formats
from renderer.catalogue import Catalogue, CatalogueEntry, DefaultCamera, save_catalogue
from renderer.credits import credit_beside
from renderer.formats.ply import write as write_ply
from renderer.made import EYE, TARGET, make
from tests.conftest import REPOSITORY
from tests.gateway.chromium import BROWSER, Page, Picture, browsing
from tests.gateway.conftest import running_gateway, write_renderers
from tests.gateway.triton_pods import entry, start_pods, triton_backends

pytestmark = pytest.mark.triton
CREDIT = 'a made scene, "drawn" for <this> test'
WHOLE = "document.getElementById('view').dataset.whole === 'true'"


@pytest.fixture
def scene(tmp_path: Path) -> CatalogueEntry:
    """The robot where the real data is, else a made scene."""
    root = Path(os.environ.get(DATA_ENV, REPOSITORY / ".." / "shared")).resolve() / "scenes"
    data = root / "playbot" / "2_0"
    if data.is_dir():
        camera = overview(formats.read(data))
        credit = credit_beside(data, root)
        return CatalogueEntry(SceneId("playbot"), f"{data.as_uri()}/", default_camera=camera, credit=credit)
    write_ply(tmp_path / "knot.ply", make("knot", 20_000))
    camera = DefaultCamera(EYE, TARGET)
    return CatalogueEntry(SceneId("knot"), (tmp_path / "knot.ply").as_uri(), default_camera=camera, credit=CREDIT)


async def frame_after(page: Page, frames: int) -> None:
    await page.until(f"+document.getElementById('view').dataset.frames > {frames}")


async def frames_of(page: Page) -> int:
    return int(await page.value("document.getElementById('view').dataset.frames"))


@pytest.mark.skipif(BROWSER is None, reason="no chromium here")
async def test_the_page_draws_the_scene_a_drag_turns_it_and_a_killed_pod_costs_no_reload(
    tmp_path: Path, scene: CatalogueEntry
) -> None:
    output = REPOSITORY / "out" / "viewer"
    output.mkdir(parents=True, exist_ok=True)
    backends = triton_backends()
    save_catalogue(Catalogue([scene]), tmp_path / "catalogue.json")
    write_renderers(tmp_path / "renderers.json")
    with start_pods(tmp_path, backends, [scene.id, scene.id]) as pods, running_gateway(tmp_path) as gateway:
        write_renderers(tmp_path / "renderers.json", *(entry(n, server) for n, server in enumerate(pods)))
        async with browsing(tmp_path) as page:
            await page.open(f"{gateway}/viewer/{scene.id}")
            await page.until(WHOLE)
            before = await page.picture(output / "at-rest.png")
            assert np.ptp(before[100:400, 260:620].mean(axis=2)) > 60  # something is drawn beside the panel
            assert await page.value("document.querySelector('footer').textContent") == scene.credit
            assert await page.value("document.getElementById('stages').innerText.includes('rendering')")

            frames = await frames_of(page)
            await page.drag((400, 240), (520, 270))
            await frame_after(page, frames + 2)
            await page.until(WHOLE)
            turned = await page.picture(output / "after-a-drag.png")
            assert changed(before, turned) > 0.02

            await page.mouse("mouseWheel", 400, 240, deltaX=0, deltaY=-300)
            await asyncio.sleep(0.3)
            await page.until(WHOLE)
            near = await page.picture(output / "zoomed.png")
            assert changed(turned, near) > 0.02

            await pinch(page, near)
            await kill_and_go_on(page, pods, output)
            assert page.errors == []


def changed(one: Picture, other: Picture) -> float:
    """Share of the pixels beside the panel that differ by more than noise."""
    difference = np.abs(one - other).max(axis=2)[:, 250:]
    return float((difference > 24).mean())


async def pinch(page: Page, before: Picture) -> None:
    """Two fingers that part zoom in; they never count as a mouse."""
    frames = await frames_of(page)
    await page.touch("touchStart", (380, 240), (420, 240))
    for step in range(1, 6):
        await page.touch("touchMove", (380 - 8 * step, 240), (420 + 8 * step, 240))
        await asyncio.sleep(0.02)
    await page.touch("touchEnd")
    await frame_after(page, frames)
    await page.until(WHOLE)
    assert changed(before, await page.picture()) > 0.02


async def kill_and_go_on(page: Page, pods: list[TritonServer], output: Path) -> None:
    """Kill the pod that drew last; the next frame comes from another, in the same page."""
    mark = "window.stays = 1"
    await page.value(mark)
    drew = str(await page.value("document.getElementById('view').dataset.pod"))
    frames = await frames_of(page)
    os.kill(pods[int(drew.rsplit("-", 1)[1])].pid, signal.SIGKILL)
    killed_s = time.monotonic()
    await page.drag((400, 240), (300, 200), button="right")
    await frame_after(page, frames)
    print(f"next frame {time.monotonic() - killed_s:.2f} s after the kill")
    await page.until(f"document.getElementById('view').dataset.pod !== '{drew}'")
    await page.until(WHOLE)
    await page.picture(output / "after-a-kill.png")
    assert await page.value("window.stays === 1")


@pytest.mark.skipif(BROWSER is None, reason="no chromium here")
async def test_a_browser_with_a_token_keeps_it_for_the_stream(tmp_path: Path) -> None:
    """No pod draws here; the page gets as far as waiting for one."""
    write_renderers(tmp_path / "renderers.json")
    (tmp_path / "catalogue.json").write_text('{"version": 1, "scenes": [{"id": "robot", "uri": "robot.ply"}]}')
    token = "the-token-of-a-browser"
    environment = {GATEWAY_TOKENS_ENV: json.dumps({"tokens": [{"name": "b", "token": token, "scenes": ["robot"]}]})}
    with running_gateway(tmp_path, **environment) as gateway:
        async with browsing(tmp_path) as page:
            await page.open(f"{gateway}/viewer/robot")
            async with asyncio.timeout(20):
                while not any("401" in error for error in page.errors):  # where a person is asked for the token
                    await asyncio.sleep(0.05)
            await page.open(f"{gateway.replace('//', f'//anyone:{token}@')}/viewer/robot")
            await page.until("document.getElementById('note')?.textContent.startsWith('Waiting for a renderer')")
            assert token not in await page.value("document.documentElement.outerHTML + document.cookie")
