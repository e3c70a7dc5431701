"""Tokens on HTTP, WebSocket and the viewer; what the page says of itself."""

from __future__ import annotations

import base64
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx2
import pytest
from structlog.testing import capture_logs
from websockets.exceptions import ConnectionClosed

from fleet.labels import GATEWAY_TOKENS_ENV
from renderer.gateway.access import COOKIE
from renderer.gateway.app import GatewaySettings
from tests.conftest import REPOSITORY
from tests.gateway.conftest import Front, body, running_gateway, serving, write_renderers
from tests.gateway.test_stream import refused, streaming

ALL, ONE, SLOW = "the-token-of-everything", "the-token-of-one-scene", "the-token-of-a-slow-one"
ROWS = [
    {"name": "all", "token": ALL, "scenes": ["*"]},
    {"name": "one", "token": ONE, "scenes": ["garden"]},
    {"name": "slow", "token": SLOW, "scenes": ["robot"], "frames_per_s": 0.2, "burst": 2},
]


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def basic(token: str) -> dict[str, str]:
    return {"Authorization": "Basic " + base64.b64encode(f"anyone:{token}".encode()).decode()}


def settings(tmp_path: Path, **fields: Any) -> GatewaySettings:
    catalogue = tmp_path / "catalogue.json"
    scenes = [{"id": "robot", "uri": "robot.ply", "credit": "by <b>someone</b>"}, {"id": "garden", "uri": "garden.ply"}]
    catalogue.write_text(json.dumps({"version": 1, "scenes": scenes}))
    (tmp_path / "tokens.json").write_text(json.dumps({"tokens": ROWS}))
    return GatewaySettings(
        renderers_file=tmp_path / "renderers.json",
        catalogue=catalogue,
        **({"tokens_file": tmp_path / "tokens.json"} | fields),
    )


async def ask(front: Front, path: str, headers: dict[str, str]) -> httpx2.Response:
    if path == "/v1/render":
        return await front.client.post(path, json=body(), headers=headers)
    return await front.client.get(path, headers=headers)


@pytest.mark.parametrize("path", ["/v1/render", "/viewer/robot"])
async def test_tokens_on_http_and_the_viewer(tmp_path: Path, pods: Any, path: str) -> None:
    pod = await pods("pod-a")
    write_renderers(tmp_path / "renderers.json", pod.entry())
    async with serving(settings(tmp_path)) as front:
        with capture_logs() as lines:
            await ask(front, path, {})
            await ask(front, path, bearer(ONE))
        denied = [(line["outcome"], line["why"], line["caller"]) for line in lines if line["event"] == "audit"]
        assert denied == [("denied", "no_token", "127.0.0.1"), ("denied", "forbidden", "127.0.0.1")]
        none, bad = await ask(front, path, {}), await ask(front, path, bearer(ALL + "x"))
        other = await ask(front, path, bearer(ONE))
        good = await ask(front, path, bearer(ALL))
        assert [answer.status_code for answer in (none, bad, other, good)] == [401, 401, 403, 200]
        assert none.headers["www-authenticate"].startswith("Basic" if "viewer" in path else "Bearer")
        assert (await ask(front, path, basic(ALL))).status_code == 200
        for _ in range(2):
            assert (await ask(front, "/v1/render", bearer(SLOW))).status_code == 200
        late = await ask(front, path, bearer(SLOW))
        assert (late.status_code, late.headers["retry-after"]) == (429, "5")
        metrics = (await front.client.get("/metrics")).text
        assert 'splatfleet_gateway_refusals_total{error="no_token",pool="renderer"} 2.0' in metrics
    for token in (ALL, ONE, SLOW):
        assert token not in metrics + none.text + bad.text + other.text


async def test_tokens_on_a_websocket(tmp_path: Path, pods: Any) -> None:
    pod = await pods("pod-a")
    write_renderers(tmp_path / "renderers.json", pod.entry())
    async with serving(settings(tmp_path)) as front:
        assert await refused(front, "robot") == (401, "no_token")
        assert await refused(front, "robot", **bearer("nobody-knows-this-one")) == (401, "bad_token")
        assert await refused(front, "robot", **bearer(ONE)) == (403, "forbidden")
        async with streaming(front, **bearer(SLOW)) as client:
            for number in range(1, 4):
                await client.look(number, moving=False)
                if number < 3:
                    assert (await client.frame())["id"] == number
            error = (await client.message())["error"]
            assert (error["status"], error["code"]) == (429, "rate")
            assert await refused(front, "robot", **bearer(SLOW)) == (429, "rate")
        async with streaming(front, **bearer(ALL)) as client:
            await client.look(1, moving=False)
            assert (await client.frame())["id"] == 1


async def test_the_viewer_leaves_a_cookie_that_opens_its_own_stream_and_no_other_sites(
    tmp_path: Path, pods: Any
) -> None:
    pod = await pods("pod-a")
    write_renderers(tmp_path / "renderers.json", pod.entry())
    async with serving(settings(tmp_path)) as front:
        page = await front.client.get("/viewer/robot", headers=basic(ALL))
        cookie = page.headers["set-cookie"]
        assert "httponly" in cookie.lower()
        assert "samesite=strict" in cookie.lower()
        value = cookie.split(";")[0]
        assert value.startswith(COOKIE + "=")
        async with streaming(front, Cookie=value, Origin=f"http://127.0.0.1:{front.port}") as client:
            await client.look(1, moving=False)
            assert (await client.frame())["id"] == 1
        foreign = {"Cookie": value, "Origin": "http://elsewhere.example"}
        assert await refused(front, "robot", **foreign) == (403, "foreign_origin")
        front.client.cookies.clear()
        assert (await ask(front, "/v1/render", foreign)).status_code == 403


async def test_a_withdrawn_token_ends_its_session_and_a_broken_file_changes_nothing(
    tmp_path: Path, pods: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("renderer.gateway.access.FILE_CHECK_S", 0.05)
    pod = await pods("pod-a")
    write_renderers(tmp_path / "renderers.json", pod.entry())
    file = tmp_path / "tokens.json"
    async with serving(settings(tmp_path)) as front, streaming(front, **bearer(ALL)) as client:
        await client.look(1, moving=False)
        assert (await client.frame())["id"] == 1
        file.write_text("{")
        assert (await ask(front, "/v1/render", bearer(ALL))).status_code == 200
        file.write_text(json.dumps({"tokens": ROWS[1:]}))
        await client.look(2, moving=False)
        while "error" not in (message := await client.message()):
            await client.look(message["id"] + 1, moving=False)
        assert (message["error"]["status"], message["error"]["code"]) == (401, "bad_token")
        with pytest.raises(ConnectionClosed) as closed:
            await client.message()
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1008


async def test_status_is_for_tokens_of_all_scenes(tmp_path: Path) -> None:
    async with serving(settings(tmp_path)) as front:
        codes = [(await front.client.get("/v1/status", headers=h)).status_code for h in ({}, bearer(ONE), bearer(ALL))]
        assert codes == [401, 403, 200]
        assert (await front.client.get("/-/ready")).status_code == 200


async def test_the_page_is_whole_and_says_so(tmp_path: Path) -> None:
    async with serving(settings(tmp_path, tokens_file=None)) as front:
        page = await front.client.get("/viewer/robot")
        assert (await front.client.get("/viewer/atlantis")).status_code == 404
        assert (await front.client.get("/viewer/Robot!")).status_code == 400
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    nonce = re.search(r"script-src 'nonce-([^']+)'", page.headers["content-security-policy"])
    assert nonce is not None
    assert page.text.count(f'nonce="{nonce[1]}"') == 3
    assert "by &lt;b&gt;someone&lt;/b&gt;" in page.text
    assert "{{" not in page.text
    assert "set-cookie" not in page.headers
    config = re.search(r'<script type="application/json"[^>]*>(.*?)</script>', page.text)
    assert config is not None
    assert json.loads(config[1])["scene"] == "robot"
    assert not re.search(r"https?:|src=|@import", page.text)  # nothing from elsewhere


def test_no_token_is_ever_written(tmp_path: Path) -> None:
    write_renderers(tmp_path / "renderers.json")
    settings(tmp_path)
    (tmp_path / "tokens.json").unlink()
    environment = {GATEWAY_TOKENS_ENV: json.dumps({"tokens": ROWS})}
    with running_gateway(tmp_path, log=tmp_path / "log", **environment) as gateway:
        for headers in ({}, bearer(ALL), bearer(ALL + "x"), basic(ALL)):
            httpx2.get(f"{gateway}/viewer/robot", headers=headers, trust_env=False)
            httpx2.post(f"{gateway}/v1/render", json=body() | {"deadline_ms": 50}, headers=headers, trust_env=False)
        assert httpx2.get(f"{gateway}/v1/status", headers=bearer(ALL), trust_env=False).status_code == 200
    for token in (ALL, ONE, SLOW, base64.b64encode(f"anyone:{ALL}".encode()).decode()):
        assert token not in (tmp_path / "log").read_text()


def test_a_bad_token_file_is_one_line_without_the_token(tmp_path: Path) -> None:
    file = tmp_path / "tokens.json"
    file.write_text(json.dumps({"tokens": [ROWS[0], ROWS[0]]}))
    done = subprocess.run(
        [sys.executable, "-m", "splatfleet", "gateway", "--renderers-file", "none.json", "--tokens-file", str(file)],
        check=False,
        capture_output=True,
        text=True,
        cwd=REPOSITORY,
    )
    assert done.returncode == 2
    assert "two entries have the same token" in done.stderr
    assert ALL not in done.stdout + done.stderr
