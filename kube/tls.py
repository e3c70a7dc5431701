"""TLS whose certificates are read again when their files change; connections that are open keep theirs."""

from __future__ import annotations

import asyncio
import math
import ssl
import threading
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import structlog

from fleet.audit import LineBudget

LOOK_EVERY_S = 2.0
log = structlog.get_logger()


class TlsError(ValueError):
    """Certificate files that cannot be used; says which and why."""


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """PEM files: the server's certificate chain and key; with `client_ca` clients must show a certificate of it."""

    certificate: Path
    key: Path
    client_ca: Path | None = None

    def load(self) -> ssl.SSLContext:
        """A context of what the files hold now; raises TlsError."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        try:
            context.load_cert_chain(self.certificate, self.key, password=_no_password)
        except (OSError, ValueError) as error:
            raise TlsError(f"certificate {self.certificate} with key {self.key}: {error}") from error
        if self.client_ca is not None:
            try:
                context.load_verify_locations(self.client_ca)
            except (OSError, ValueError) as error:
                raise TlsError(f"client CA {self.client_ca}: {error}") from error
            context.verify_mode = ssl.CERT_REQUIRED
        return context

    def not_after_s(self) -> float:
        """When the certificate expires, seconds since 1970; not a number where the file cannot be read as one."""
        try:
            return not_after_s(ssl.PEM_cert_to_DER_cert(_first_certificate(self.certificate.read_text())))
        except (OSError, ValueError, IndexError):
            return math.nan

    def stamp(self) -> tuple[tuple[int, int, int], ...]:
        """What changes when a file is written or swapped (Kubernetes swaps a link above mounted secrets)."""
        paths = filter(None, (self.certificate, self.key, self.client_ca))
        found = [path.stat() for path in paths]
        return tuple((stat.st_ino, stat.st_mtime_ns, stat.st_size) for stat in found)


def _first_certificate(text: str) -> str:
    """The server's own certificate: the first of a chain."""
    begin, end = ssl.PEM_HEADER, ssl.PEM_FOOTER
    return begin + text.split(begin, 1)[1].split(end, 1)[0] + end


def not_after_s(der: bytes) -> float:
    """The end of the validity (RFC 5280, 4.1) of a certificate in DER; `ssl` reads it of a peer's alone.

    Raises ValueError or IndexError where it is none.
    """
    certificate, _ = _element(der)
    fields, _ = _element(certificate)
    elements = []
    while fields:
        elements.append(fields)
        _, fields = _element(fields)
    # The version, where it is given, then serial, algorithm, issuer and the validity.
    validity, _ = _element(elements[4 if elements[0][0] == 0xA0 else 3])
    _, not_after = _element(validity)
    text = _element(not_after)[0].decode("ascii")
    form = "%y%m%d%H%M%SZ" if not_after[0] == 0x17 else "%Y%m%d%H%M%SZ"  # UTCTime, GeneralizedTime
    return datetime.strptime(text, form).replace(tzinfo=UTC).timestamp()


def _element(data: bytes) -> tuple[bytes, bytes]:
    """The contents of the first DER element, and what follows it."""
    length, start = data[1], 2
    if length & 0x80:
        start = 2 + (length & 0x7F)
        length = int.from_bytes(data[2:start])
    if len(data) < start + length:
        raise ValueError("the certificate ends early")
    return data[start : start + length], data[start + length :]


def _no_password() -> str:
    raise ValueError("the key is encrypted: give one that is not")


_refusals = LineBudget()


class _Handshake(ssl.SSLObject):
    """Says in the log why a client was turned away: nothing above the handshake ever hears of it."""

    def do_handshake(self) -> None:
        try:
            super().do_handshake()
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            raise
        except ssl.SSLError as error:
            left_out = _refusals.take(time.monotonic())
            if left_out is not None:
                more = {"lines_left_out": left_out} if left_out else {}
                log.warning("audit", action="handshake", outcome="denied", why=error.reason or str(error), **more)
            raise


class ReloadingContext(ssl.SSLContext):
    """A server context that hands each new connection to the files' last good state."""

    files: TlsFiles
    current: ssl.SSLContext
    not_after_s: float
    _seen: tuple[tuple[int, int, int], ...]  # of the files when they were last read

    @classmethod
    def of(cls, files: TlsFiles) -> ReloadingContext:
        """Raises TlsError where the files cannot be used now."""
        made = cls(ssl.PROTOCOL_TLS_SERVER)
        try:
            made._seen = files.stamp()  # first: what is swapped while we read is then read again
        except OSError as error:
            raise TlsError(f"certificate files: {error}") from error
        made.files, made.current = files, files.load()
        made.not_after_s = files.not_after_s()
        return made

    def wrap_bio(self, *arguments: Any, **named: Any) -> ssl.SSLObject:
        self.current.sslobject_class = _Handshake
        return self.current.wrap_bio(*arguments, **named)

    async def reload(self, every_s: float = LOOK_EVERY_S) -> None:
        """Look at the files until cancelled; what cannot be used is logged once and changes nothing."""
        while True:
            await asyncio.sleep(every_s)
            try:
                found = self.files.stamp()
                if found == self._seen:
                    continue
                self._seen = found
                self.current = self.files.load()
                self.not_after_s = self.files.not_after_s()
                log.info("certificates reloaded", certificate=str(self.files.certificate))
            except (OSError, TlsError) as error:
                # A file may be half written: the next look sees it change again.
                log.warning("certificates not reloaded, the last ones stay", error=str(error))


class ClientTls:
    """How a client checks a server (`ca`, else the system's) and shows itself, where it has a `certificate`.

    Files that change count from the next connection on; while they cannot be used the last good state stays.
    """

    def __init__(self, ca: Path | None = None, certificate: Path | None = None, key: Path | None = None) -> None:
        """Raises TlsError where the files cannot be used now."""
        self._files = tuple(path for path in (ca, certificate, key) if path is not None)
        self._ca, self._certificate, self._key = ca, certificate, key
        self._lock = threading.Lock()
        self._seen: tuple[tuple[int, int, int], ...] = ()
        self._made: ssl.SSLContext | None = None
        self.context()

    def context(self) -> ssl.SSLContext:
        """A context of the files' last good state."""
        with self._lock:
            try:
                seen = tuple((stat.st_ino, stat.st_mtime_ns, stat.st_size) for stat in map(Path.stat, self._files))
                if self._made is None or seen != self._seen:
                    self._made, self._seen = self._load(), seen
            except (OSError, ValueError) as error:
                if self._made is None:
                    raise TlsError(f"client TLS files {', '.join(map(str, self._files))}: {error}") from error
            return self._made

    def _load(self) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=None if self._ca is None else str(self._ca))
        if self._certificate is not None:
            context.load_cert_chain(self._certificate, self._key, password=_no_password)
        return context
