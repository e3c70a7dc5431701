"""What a server that was busy wants its clients to wait: obstore does not show the header, so it is asked once more."""

from __future__ import annotations

import contextlib
import http.client
import ssl
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from urllib.parse import urlsplit

BUSY = (429, 503)
LONGEST_PAUSE_S = 120.0
_ASK_TIMEOUT_S = 2.0


def asked_pause_s(url: str) -> float | None:
    """Seconds of the Retry-After that a GET of one byte gets now (RFC 9110 10.2.3), two minutes at most.

    0.0 where the server is not busy any more, None where it is and does not say or does not answer. Redirects are
    not followed.
    """
    parts = urlsplit(url)
    host, port = parts.hostname or "", parts.port
    connection = (
        http.client.HTTPSConnection(host, port, timeout=_ASK_TIMEOUT_S, context=ssl.create_default_context())
        if parts.scheme == "https"
        else http.client.HTTPConnection(host, port, timeout=_ASK_TIMEOUT_S)
    )
    with contextlib.closing(connection):
        try:
            target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
            connection.request("GET", target, headers={"range": "bytes=0-0"})
            answer = connection.getresponse()
        except (OSError, http.client.HTTPException):
            return None
        if answer.status not in BUSY:
            return 0.0
        return parse_retry_after(answer.getheader("retry-after") or "", datetime.now(UTC))


def parse_retry_after(text: str, now: datetime) -> float | None:
    """Seconds from now of a Retry-After, a number or a date, at most LONGEST_PAUSE_S; None for anything else."""
    text = text.strip()
    if text.isascii() and text.isdigit():
        return min(LONGEST_PAUSE_S, float(text[:9]))
    try:
        at = parsedate_to_datetime(text)
    except ValueError:
        return None
    seconds = (at.replace(tzinfo=at.tzinfo or UTC) - now).total_seconds()
    return min(LONGEST_PAUSE_S, max(0.0, seconds))
