"""Lines about who did, or was refused, what: in the log, under the name `audit`, for the gateway and scene agents."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import structlog

from fleet.audit import LineBudget

log = structlog.get_logger()


class Audit:
    """One for each part; acts and refusals have budgets of their own, so that refusals never hide an act."""

    def __init__(self, part: str) -> None:
        self._part = part
        self._acts = LineBudget()
        self._denials = LineBudget()

    def did(self, action: str, scope: Mapping[str, Any], **about: Any) -> None:
        """Something was done as asked; `scope` is the ASGI scope of the request."""
        self._line(self._acts, "done", action, scope, about)

    def denied(self, action: str, scope: Mapping[str, Any], **about: Any) -> None:
        """Somebody was refused for who they are, or are not."""
        self._line(self._denials, "denied", action, scope, about)

    def _line(
        self, budget: LineBudget, outcome: str, action: str, scope: Mapping[str, Any], about: Mapping[str, Any]
    ) -> None:
        left_out = budget.take(time.monotonic())
        if left_out is None:
            return
        caller = (scope.get("client") or ("",))[0]
        more = {**about, **({"lines_left_out": left_out} if left_out else {})}
        log.info("audit", part=self._part, action=action, outcome=outcome, caller=caller, **more)
