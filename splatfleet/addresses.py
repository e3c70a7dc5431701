"""Addresses as flags give them: `HOST:PORT` to listen on, `NAME=URL` of a node's digest."""

from __future__ import annotations

import errno
from collections.abc import Sequence
from urllib.parse import urlsplit

import click

from splatfleet.settings import UsageError


def parse_listen(text: str, flag: str = "--listen") -> tuple[str, int]:
    """`HOST:PORT` as a pair; raises UsageError."""
    host, colon, port = text.rpartition(":")
    if not colon or not host or not port.isdecimal() or len(port) > 5 or int(port) > 65535:
        raise UsageError(f"{flag}: {text!r} is no address, expected HOST:PORT (example: 127.0.0.1:8080)")
    return host.strip("[]"), int(port)


def is_url(text: str) -> bool:
    """Whether it is a whole address for HTTP: a scheme, a host and no port beyond those that there are."""
    try:
        parts = urlsplit(text)
        whole = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False
    return whole and not any(letter.isspace() or not letter.isprintable() for letter in text)


def check_url(text: str, flag: str) -> None:
    """Raises UsageError unless it is a URL for HTTP."""
    if not is_url(text):
        raise UsageError(f"{flag}: {text!r:.80} is no URL, expected http://HOST:PORT or https://HOST:PORT")


def parse_node_digests(pairs: Sequence[str], flag: str = "--node-digest") -> dict[str, str]:
    """`NAME=URL` texts as URLs by node name, without a trailing slash; raises UsageError."""
    urls: dict[str, str] = {}
    for pair in pairs:
        name, _, url = pair.partition("=")
        if not name or not is_url(url):
            raise UsageError(f"{flag} {pair!r}: expected NAME=URL (example: node-1=http://127.0.0.1:9465)")
        if name in urls:
            raise UsageError(f"{flag} {pair!r}: node {name} is given twice")
        urls[name] = url.rstrip("/")
    return urls


def cannot_listen(address: str, error: OSError) -> click.ClickException:
    """What a server says, with exit code 1, when it cannot have its address; an error of a file names that file."""
    cause = error.strerror or str(error)
    if error.filename is not None:
        return click.ClickException(f"{error.filename}: {cause}")
    if error.errno == errno.EADDRINUSE:
        cause = "another process listens there; end it, or give another port (0 takes a free one)"
    return click.ClickException(f"--listen {address}: {cause}")
