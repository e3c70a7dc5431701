"""Certificates of a gRPC server that are read again when their files change."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path

import grpc
import structlog

log = structlog.get_logger()


class CertificateError(ValueError):
    """Certificate files that cannot be used; says which and why."""


@dataclass(frozen=True, slots=True)
class CertificateFiles:
    """PEM files; with `client_ca` callers must show a certificate of it."""

    certificate: Path
    key: Path
    client_ca: Path | None = None

    def read(self) -> grpc.ServerCertificateConfiguration:
        """What the files hold now, checked as far as gRPC does not; raises CertificateError."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        try:
            context.load_cert_chain(self.certificate, self.key, password=_no_password)
            pair = (self.key.read_bytes(), self.certificate.read_bytes())
        except (OSError, ValueError) as error:
            raise CertificateError(f"certificate {self.certificate} with key {self.key}: {error}") from error
        roots = None
        if self.client_ca is not None:
            try:
                context.load_verify_locations(self.client_ca)
                roots = self.client_ca.read_bytes()
            except (OSError, ValueError) as error:
                raise CertificateError(f"client CA {self.client_ca}: {error}") from error
        return grpc.ssl_server_certificate_configuration([pair], roots)

    def stamp(self) -> tuple[tuple[int, int, int], ...]:
        """What changes when a file is written or swapped; raises OSError."""
        found = [path.stat() for path in (self.certificate, self.key, self.client_ca) if path is not None]
        return tuple((stat.st_ino, stat.st_mtime_ns, stat.st_size) for stat in found)


def _no_password() -> str:
    raise ValueError("the key is encrypted: give one that is not")


def reloading_credentials(files: CertificateFiles) -> grpc.ServerCredentials:
    """Credentials that look at the files at every handshake; what cannot be used is logged and changes nothing.

    Raises CertificateError where the files cannot be used now.
    """
    first = files.read()
    seen = [files.stamp()]

    def changed() -> grpc.ServerCertificateConfiguration | None:
        try:
            stamp = files.stamp()
            if stamp == seen[0]:
                return None
            found = files.read()
            seen[0] = stamp
        except (OSError, CertificateError) as error:
            log.warning("certificates not reloaded, the last ones stay", error=str(error))
            return None
        log.info("certificates reloaded", certificate=str(files.certificate))
        return found

    return grpc.dynamic_ssl_server_credentials(
        first, changed, require_client_authentication=files.client_ca is not None
    )
