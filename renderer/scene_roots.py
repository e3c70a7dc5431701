"""Where scenes may come from: addresses under which a source has to lie."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit
from urllib.request import url2pathname

_DEFAULT_PORTS = {"http": 80, "https": 443}


class OutsideRoots(Exception):
    """A source that lies under none of the allowed roots; names them."""


@dataclass(frozen=True, slots=True)
class SceneRoots:
    """Addresses such as `s3://scenes/v1`, `https://cdn.example` or `file:///scenes`; none allows every source."""

    roots: tuple[str, ...] = ()

    def check(self, uri: str) -> None:
        """Raises OutsideRoots for a source that is under no root.

        Scheme, host and port have to be the same; a root's path is a whole folder. On a disk links are followed first.
        """
        if not self.roots:
            return
        for root in self.roots:
            if _under(uri, root):
                return
        raise OutsideRoots(f"{uri} lies outside the allowed roots {', '.join(self.roots)}")


ANYWHERE = SceneRoots()


def parse_roots(texts: Sequence[str]) -> SceneRoots:
    """Roots as flags or an environment variable give them; raises ValueError for one that is none."""
    for text in texts:
        parts = urlsplit(text)
        is_place = parts.netloc if parts.scheme in ("http", "https", "s3", "gs", "az") else parts.path.startswith("/")
        if parts.scheme not in ("file", "http", "https", "s3", "gs", "az") or not is_place:
            raise ValueError(
                f"{text!r} is no root: expected s3://BUCKET/…, gs://…, az://…, https://HOST/… or file:///…"
            )
        if "@" in parts.netloc or parts.query or parts.fragment:
            raise ValueError("a root carries no user, query or fragment")
    return SceneRoots(tuple(texts))


def _under(uri: str, root: str) -> bool:
    asked, allowed = urlsplit(uri), urlsplit(root)
    if asked.scheme != allowed.scheme:
        return False
    if asked.scheme == "file":
        path, folder = (Path(url2pathname(parts.path)).resolve() for parts in (asked, allowed))
        return path == folder or path.is_relative_to(folder)
    default = _DEFAULT_PORTS.get(asked.scheme)
    if (asked.hostname, asked.port or default) != (allowed.hostname, allowed.port or default):
        return False
    segments = [part for part in unquote(asked.path).split("/") if part]
    if any(part in (".", "..") or "\\" in part for part in segments):
        return False
    folders = [part for part in unquote(allowed.path).split("/") if part]
    return segments[: len(folders)] == folders
