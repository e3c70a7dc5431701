"""Who asks: the bearer token of a request, and the tokens that are known, read again when their file changes."""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import structlog
from starlette.datastructures import Headers
from starlette.requests import cookie_parser

from renderer.gateway.tokens import ALL_SCENES, Caller, TokenBook, TokensError, parse_tokens
from renderer.gateway.wire import Refusal

COOKIE = "splatfleet_token"  # what the viewer's page leaves, as a browser sends no header of ours with a WebSocket
FILE_CHECK_S = 1.0

log = structlog.get_logger("gateway")


@dataclass(frozen=True, slots=True)
class Secret:
    """The token of a request; `is_ambient` where the browser adds it by itself, whatever page asked."""

    token: str
    is_ambient: bool


def secret_of(headers: Headers) -> Secret | None:
    """The token out of `Authorization: Bearer`, the password of `Authorization: Basic`, or the viewer's cookie."""
    kind, _, value = headers.get("authorization", "").partition(" ")
    if kind.lower() == "bearer" and value:
        return Secret(value.strip(), is_ambient=False)
    if kind.lower() == "basic" and (plain := _decoded(value)) is not None:
        return Secret(plain.partition(":")[2], is_ambient=True)
    cookie = _decoded(cookie_parser(headers.get("cookie", "")).get(COOKIE, ""))
    return Secret(cookie, is_ambient=True) if cookie else None


def cookie_value(token: str) -> str:
    """A token as the value of COOKIE."""
    return base64.urlsafe_b64encode(token.encode()).decode()


def _decoded(value: str) -> str | None:
    try:
        return base64.b64decode(
            value.encode("ascii"), altchars=b"-_" if "-" in value or "_" in value else None
        ).decode()
    except (binascii.Error, ValueError):
        return None


class Access:
    """The book of tokens; without a file and a document everybody may see everything."""

    def __init__(self, file: Path | None = None, document: bytes | None = None) -> None:
        """`document` is what `parse_tokens` reads. Raises TokensError for tokens that cannot be used, and OSError."""
        self._file = file
        self._book = parse_tokens(document) if document is not None else None
        self._stamp: tuple[int, int, int] | None = None
        self._checked_s = float("-inf")
        self._anyone = Caller("anyone", "", [ALL_SCENES], None)
        if file is not None:
            if document is not None:
                raise TokensError("tokens come from a file or from the environment, not from both")
            self._read(file)

    @property
    def is_open(self) -> bool:
        return self._book is None

    def caller(self, headers: Headers, now_s: float) -> Caller:
        """Who asks; raises Refusal 401, and 403 for another site's page that uses a token the browser added."""
        book = self._current_book(now_s)
        if book is None:
            return self._anyone
        secret = secret_of(headers)
        caller = book.caller(secret.token if secret else None)
        origin = headers.get("origin")
        if secret and secret.is_ambient and origin and urlsplit(origin).netloc != headers.get("host"):
            raise Refusal(403, "foreign_origin", "a page of another site may not use this token")
        return caller

    def current(self, caller: Caller, now_s: float) -> Caller:
        """The caller of a session that goes on; raises Refusal 401 where the token was withdrawn."""
        book = self._current_book(now_s)
        return caller if book is None else book.current(caller)

    def _current_book(self, now_s: float) -> TokenBook | None:
        if self._file is not None and now_s - self._checked_s >= FILE_CHECK_S:
            self._checked_s = now_s
            try:
                self._read(self._file)
            except (OSError, TokensError) as error:
                log.warning("tokens not read, the last good ones stay", file=str(self._file), error=str(error))
        return self._book

    def _read(self, file: Path) -> None:
        status = file.stat()
        stamp = (status.st_ino, status.st_mtime_ns, status.st_size)
        if stamp == self._stamp:
            return
        self._stamp = stamp  # a broken file is complained about once
        book = parse_tokens(file.read_bytes())
        if self._book is not None:
            book.follow(self._book)
        self._book = book
