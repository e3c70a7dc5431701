"""What can go wrong with the API server, as three cases that callers treat differently."""

from __future__ import annotations

import msgspec


class KubeError(Exception):
    """Anything that kept a request from being done; one line."""


class ConfigError(KubeError):
    """No usable address or credentials; says what was looked at and the fix."""


class Unreachable(KubeError):
    """No answer: refused, dropped, or later than the deadline. A write may still have been done."""


class Refused(KubeError):
    """The API server answered with an error: `status` is HTTP's, `reason` its own word (`Conflict`, `Expired`)."""

    def __init__(self, status: int, reason: str, message: str, retry_after_s: float | None = None) -> None:
        super().__init__(f"{status} {reason}: {message}")
        self.status = status
        self.reason = reason
        self.retry_after_s = retry_after_s

    @property
    def absent(self) -> bool:
        """Whether what was asked for is not there."""
        return self.status == 404

    @property
    def conflict(self) -> bool:
        """Whether somebody else wrote in between, or made it before."""
        return self.status == 409


class _Status(msgspec.Struct):
    reason: str = ""
    message: str = ""


def refused(status: int, body: bytes, retry_after: str | None = None) -> Refused:
    """The error that an answer stands for; a body that is no Status is quoted in short."""
    try:
        found = msgspec.json.decode(body, type=_Status)
    except msgspec.MsgspecError:
        found = _Status()
    text = found.message or body[:160].decode(errors="replace").strip() or "(no body)"
    return Refused(status, found.reason or "Unknown", " ".join(text.split()), _seconds(retry_after))


def _seconds(text: str | None) -> float | None:
    """Retry-After in seconds; the API server never sends a date."""
    try:
        value = float(text) if text else -1.0
    except ValueError:
        return None
    return value if 0.0 <= value < float("inf") else None
