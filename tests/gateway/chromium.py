"""A headless Chromium driven by the DevTools protocol."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import io
import itertools
import json
import os
import shutil
import signal
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, TypeAlias

import httpx2
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from websockets.asyncio.client import ClientConnection, connect

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--hide-scrollbars",
    "--remote-debugging-port=0",
)


Picture: TypeAlias = NDArray[np.float64]  # [h, w, 3], 0 to 255


class Page:
    """One tab."""

    def __init__(self, socket: ClientConnection) -> None:
        self._socket = socket
        self._numbers = itertools.count(1)
        self._answers: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self.errors: list[str] = []  # what scripts and the page's policy complained about

    async def read(self) -> None:
        async for text in self._socket:
            message = json.loads(text)
            if (waiter := self._answers.pop(message.get("id", 0), None)) is not None and not waiter.done():
                waiter.set_result(message)
            elif message.get("method") in ("Runtime.exceptionThrown", "Log.entryAdded"):
                self.errors.append(json.dumps(message["params"]))

    async def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        number = next(self._numbers)
        self._answers[number] = asyncio.get_running_loop().create_future()
        await self._socket.send(json.dumps({"id": number, "method": method, "params": parameters}))
        message = await asyncio.wait_for(self._answers[number], 20)
        assert "error" not in message, (method, message["error"])
        result: dict[str, Any] = message["result"]
        return result

    async def open(self, url: str) -> None:
        for domain in ("Page", "Runtime", "Log", "Network"):
            await self.call(f"{domain}.enable")
        await self.call("Page.navigate", url=url)

    async def value(self, expression: str) -> Any:
        """What a JavaScript expression gives."""
        result = await self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        return result["result"].get("value")

    async def until(self, expression: str, seconds: float = 20.0) -> None:
        """Wait until a JavaScript expression is true."""
        try:
            async with asyncio.timeout(seconds):
                while await self.value(expression) is not True:
                    await asyncio.sleep(0.05)
        except TimeoutError:
            note = await self.value("document.body && document.body.innerText")
            raise AssertionError(f"never true: {expression}; the page says: {note}; errors: {self.errors}") from None

    async def picture(self, file: Path | None = None) -> Picture:
        """What the tab shows."""
        data = base64.b64decode((await self.call("Page.captureScreenshot", format="png"))["data"])
        if file is not None:
            file.write_bytes(data)
        return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"), np.float64)

    async def mouse(self, kind: str, x: float, y: float, button: str = "left", **more: Any) -> None:
        held = {"left": 1, "right": 2}[button] if kind != "mouseReleased" else 0
        await self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button=button, buttons=held, **more)

    async def drag(self, start: tuple[int, int], end: tuple[int, int], button: str = "left", steps: int = 8) -> None:
        await self.mouse("mousePressed", *start, button, clickCount=1)
        for step in range(1, steps + 1):
            x, y = (a + (b - a) * step / steps for a, b in zip(start, end, strict=True))
            await self.mouse("mouseMoved", x, y, button)
            await asyncio.sleep(0.02)
        await self.mouse("mouseReleased", *end, button, clickCount=1)

    async def touch(self, kind: str, *points: tuple[float, float]) -> None:
        touches = [{"x": x, "y": y, "id": number} for number, (x, y) in enumerate(points)]
        await self.call("Input.dispatchTouchEvent", type=kind, touchPoints=touches)


@contextlib.asynccontextmanager
async def browsing(folder: Path, size: tuple[int, int] = (640, 480)) -> AsyncIterator[Page]:
    """A tab of a fresh browser, which is gone afterwards."""
    assert BROWSER is not None
    profile = folder / "profile"
    command = [BROWSER, *FLAGS, f"--user-data-dir={profile}", f"--window-size={size[0]},{size[1]}", "about:blank"]
    log = (folder / "chromium.log").open("wb")
    process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
    try:
        port_file = profile / "DevToolsActivePort"
        async with asyncio.timeout(30):
            while not (port_file.exists() and len(port_file.read_text().split()) == 2):
                assert process.poll() is None, (folder / "chromium.log").read_text()
                await asyncio.sleep(0.05)
        port = port_file.read_text().split()[0]
        async with httpx2.AsyncClient(trust_env=False) as client:
            tabs = (await client.get(f"http://127.0.0.1:{port}/json/list")).json()
        address = next(tab["webSocketDebuggerUrl"] for tab in tabs if tab["type"] == "page")
        async with connect(address, max_size=None, proxy=None, compression=None) as socket:
            page = Page(socket)
            reading = asyncio.ensure_future(page.read())
            try:
                yield page
            finally:
                reading.cancel()
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        log.close()
