"""Bearer tokens: who may see which scenes, and how often. A core; what it keeps of a token is its SHA-256.

The document is `{"tokens": [{"name", "token" | "sha256", "scenes", "frames_per_s"?, "burst"?}]}`; `scenes` are ids, or
`["*"]` for all of them.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from hashlib import sha256

import msgspec

from fleet.scene import SceneIdError, parse_scene_id
from renderer.gateway.wire import Refusal

ALL_SCENES = "*"
MIN_TOKEN_CHARACTERS = 16

_SHA256 = re.compile(r"[0-9a-f]{64}")


class TokensError(ValueError):
    """A token document that cannot be used; names the field, and never a token."""


class _Row(msgspec.Struct, forbid_unknown_fields=True):
    name: str
    scenes: list[str]
    token: str | None = None
    sha256: str | None = None
    frames_per_s: float | None = None  # None is no limit
    burst: int | None = None  # frames at once; one second's worth where absent


class _Document(msgspec.Struct, forbid_unknown_fields=True):
    tokens: list[_Row]


class Bucket:
    """A token bucket: `burst` frames at once, `frames_per_s` in the long run."""

    def __init__(self, frames_per_s: float, burst: int) -> None:
        self._frames_per_s = frames_per_s
        self._burst = burst
        self._level = float(burst)
        self._filled_s = -math.inf

    def wait_s(self, now_s: float) -> float:
        """Seconds until a frame is allowed, 0 where one is."""
        self._level = min(float(self._burst), self._level + (now_s - self._filled_s) * self._frames_per_s)
        self._filled_s = now_s
        return max(0.0, (1.0 - self._level) / self._frames_per_s)

    def take(self, now_s: float) -> float:
        """Take a frame where one is allowed; seconds until then otherwise."""
        wait_s = self.wait_s(now_s)
        if wait_s == 0.0:
            self._level -= 1.0
        return wait_s


class Caller:
    """Who asks, as the token says."""

    def __init__(self, name: str, digest: str, scenes: Iterable[str], bucket: Bucket | None) -> None:
        self.name = name
        self.digest = digest
        self._scenes = frozenset(scenes)
        self._bucket = bucket

    def may_see(self, scene: str) -> bool:
        return ALL_SCENES in self._scenes or scene in self._scenes

    def check_scene(self, scene: str) -> None:
        """Raise Refusal 403 for a scene that is none of theirs, whether or not it exists."""
        if not self.may_see(scene):
            raise Refusal(403, "forbidden", f"this token may not see scene {scene!r}")

    def check_rate(self, now_s: float, takes: bool = True) -> None:
        """Take a frame of the rate, or only see whether there is one; raises Refusal 429."""
        if self._bucket is None:
            return
        wait_s = self._bucket.take(now_s) if takes else self._bucket.wait_s(now_s)
        if wait_s > 0:
            raise Refusal(429, "rate", "this token asked for more frames than it may", max(1, math.ceil(wait_s)))

    def pause_s(self, now_s: float) -> float:
        """Take a frame where the rate allows one; seconds to wait otherwise."""
        return 0.0 if self._bucket is None else self._bucket.take(now_s)

    def inherit(self, older: Caller) -> None:
        """Go on with the bucket of the same token, so that a reload refills nobody's rate."""
        if self._bucket is not None and older._bucket is not None:
            self._bucket._level, self._bucket._filled_s = older._bucket._level, older._bucket._filled_s


class TokenBook:
    """All callers by the digest of their token."""

    def __init__(self, callers: Iterable[Caller]) -> None:
        self._callers = {caller.digest: caller for caller in callers}

    def caller(self, secret: str | None) -> Caller:
        """Who holds the token; raises Refusal 401."""
        if secret is None:
            raise Refusal(401, "no_token", "a bearer token is needed here")
        found = self._callers.get(_digest(secret))
        if found is None:
            raise Refusal(401, "bad_token", "the bearer token is not known here")
        return found

    def current(self, caller: Caller) -> Caller:
        """The caller as the book has it now; raises Refusal 401 where the token was withdrawn."""
        found = self._callers.get(caller.digest)
        if found is None:
            raise Refusal(401, "bad_token", "the bearer token was withdrawn")
        return found

    def follow(self, older: TokenBook) -> None:
        """Take over the rates of an older book."""
        for digest, caller in self._callers.items():
            if digest in older._callers:
                caller.inherit(older._callers[digest])


def parse_tokens(document: bytes) -> TokenBook:
    """Read a token document; raises TokensError."""
    try:
        rows = msgspec.json.decode(document, type=_Document).tokens
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise TokensError(f"tokens: {error}") from error
    book = TokenBook(_caller(row, f"tokens[{number}]") for number, row in enumerate(rows))
    if len(book._callers) != len(rows):
        raise TokensError("tokens: two entries have the same token")
    return book


def _caller(row: _Row, where: str) -> Caller:
    if (row.token is None) == (row.sha256 is None):
        raise TokensError(f"{where} ({row.name}) needs either token or sha256")
    if row.token is not None and len(row.token) < MIN_TOKEN_CHARACTERS:
        raise TokensError(f"{where}.token has {len(row.token)} characters, expected {MIN_TOKEN_CHARACTERS} at least")
    if row.sha256 is not None and not _SHA256.fullmatch(row.sha256):
        raise TokensError(f"{where}.sha256 is not 64 hexadecimal digits in lower case")
    for scene in row.scenes:
        try:
            if scene != ALL_SCENES:
                parse_scene_id(scene)
        except SceneIdError as error:
            raise TokensError(f"{where}.scenes: {error}") from error
    digest = row.sha256 or _digest(row.token or "")
    return Caller(row.name, digest, row.scenes, _bucket(row, where))


def _bucket(row: _Row, where: str) -> Bucket | None:
    if row.frames_per_s is None:
        if row.burst is not None:
            raise TokensError(f"{where}.burst needs frames_per_s beside it")
        return None
    if not 0 < row.frames_per_s < math.inf:
        raise TokensError(f"{where}.frames_per_s is {row.frames_per_s:g}, expected more than 0")
    burst = row.burst if row.burst is not None else max(1, math.ceil(row.frames_per_s))
    if burst < 1:
        raise TokensError(f"{where}.burst is {burst}, expected 1 at least")
    return Bucket(row.frames_per_s, burst)


def _digest(secret: str) -> str:
    return sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()
