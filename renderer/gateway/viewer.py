"""`/viewer/SCENE`: one page that needs nothing else; it draws what `WS /v1/stream` sends."""

from __future__ import annotations

import html
import secrets
import time
from importlib.resources import files
from typing import TYPE_CHECKING, Any

import msgspec
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from renderer.catalogue import UP_OF_TRAINED_SCENES, CatalogueEntry, DefaultCamera
from renderer.gateway.access import COOKIE, cookie_value, secret_of
from renderer.gateway.hot import DENIED
from renderer.gateway.wire import Refusal, check_scene_id

if TYPE_CHECKING:
    from renderer.gateway.app import Gateway

PLAIN_CAMERA = DefaultCamera((2.0, -1.0, 2.0), (0.0, 0.0, 0.0))  # where the catalogue has none

_POLICY = (
    "default-src 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; img-src blob: data:; "
    "connect-src 'self' ws://{host} wss://{host}; base-uri 'none'; form-action 'none'; frame-ancestors 'self'"
)


class Viewer:
    """Serves the page of a scene."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._template = files("renderer.gateway").joinpath("viewer.html").read_text()

    async def page(self, request: Request) -> Response:
        """The page, or why not; a browser that holds no token is asked for one."""
        gateway, scene = self._gateway, str(request.path_params["scene"])
        now_s = time.monotonic()
        try:
            caller = gateway.access.caller(request.headers, now_s)
            check_scene_id(scene)
            caller.check_scene(scene)
            caller.check_rate(now_s, takes=False)
            gateway.check_known(scene)
        except Refusal as refusal:
            gateway.metrics.refused(refusal.pool or gateway.default_pool, refusal)
            if refusal.status in DENIED:
                gateway.audit.denied("view", request.scope, why=refusal.code)
            return _refused(refusal)
        answer = self._page_of(scene, gateway.entry(scene), request.headers.get("host", ""))
        secret = secret_of(request.headers)
        if secret is not None and not gateway.access.is_open:
            is_secure = request.url.scheme == "https"
            answer.set_cookie(COOKIE, cookie_value(secret.token), httponly=True, samesite="strict", secure=is_secure)
        return answer

    def _page_of(self, scene: str, entry: CatalogueEntry | None, host: str) -> Response:
        camera = (entry.default_camera if entry else None) or PLAIN_CAMERA
        config: dict[str, Any] = {
            "scene": scene,
            "eye": camera.eye,
            "target": camera.target,
            "up": entry.up if entry else UP_OF_TRAINED_SCENES,
            "fov_y_degrees": camera.fov_y_degrees,
            "max_side_px": self._gateway.settings.viewer_max_side_px,
        }
        nonce = secrets.token_urlsafe(16)
        text = (
            self._template.replace("{{nonce}}", nonce)
            .replace("{{scene}}", html.escape(scene))
            .replace("{{credit}}", html.escape(entry.credit if entry else ""))
            .replace("{{config}}", msgspec.json.encode(config).decode().replace("<", "\\u003c"))
        )
        safe_host = host if host.replace(":", "").replace(".", "").replace("-", "").isalnum() else "localhost"
        headers = {
            "content-security-policy": _POLICY.format(nonce=nonce, host=safe_host),
            "cache-control": "no-store",
            "referrer-policy": "no-referrer",
            "x-content-type-options": "nosniff",
        }
        return Response(text, media_type="text/html; charset=utf-8", headers=headers)


def _refused(refusal: Refusal) -> Response:
    headers = {}
    if refusal.retry_after_s is not None:
        headers["retry-after"] = str(refusal.retry_after_s)
    if refusal.status == 401:
        headers["www-authenticate"] = 'Basic realm="splatfleet: any name, the token as password", charset="UTF-8"'
    return PlainTextResponse(f"{refusal.message}\n", refusal.status, headers)
