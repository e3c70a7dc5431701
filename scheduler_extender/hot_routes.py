"""An application whose hot routes answer without what a web framework puts before a route."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from fastapi import FastAPI, Request, Response
from starlette.types import Receive, Scope, Send

Route = Callable[[Request], Awaitable[Response]]


class HotRoutes(FastAPI):
    """FastAPI whose hot routes are reached before its middleware and its router: for these that is half of a call."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self._hot: dict[str, Route] = {}

    def add_hot_route(self, path: str, route: Route) -> None:
        """A POST route that answers whatever goes wrong; other methods get the 405 of the router."""
        self._hot[path] = route
        self.router.add_route(path, route, methods=["POST"])

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        route = self._hot.get(scope["path"]) if scope["type"] == "http" and scope["method"] == "POST" else None
        if route is None:
            await super().__call__(scope, receive, send)
            return
        response = await route(Request(scope, receive))
        await response(scope, receive, send)
