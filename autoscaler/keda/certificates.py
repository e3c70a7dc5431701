"""A gRPC server's certificates, read again when their files change."""

from __future__ import annotations

import grpc
import structlog

from kube.tls import TlsError, TlsFiles

log = structlog.get_logger()


def read(files: TlsFiles) -> grpc.ServerCertificateConfiguration:
    """What the files hold now, checked as far as gRPC does not; raises TlsError."""
    files.load()
    try:
        pair = (files.key.read_bytes(), files.certificate.read_bytes())
        roots = files.client_ca.read_bytes() if files.client_ca is not None else None
    except OSError as error:
        raise TlsError(f"certificate {files.certificate} with key {files.key}: {error}") from error
    return grpc.ssl_server_certificate_configuration([pair], roots)


def reloading_credentials(files: TlsFiles) -> grpc.ServerCredentials:
    """Credentials that look at the files at every handshake; what cannot be used is logged and changes nothing.

    Raises TlsError where the files cannot be used now.
    """
    first = read(files)
    seen = [files.stamp()]

    def changed() -> grpc.ServerCertificateConfiguration | None:
        try:
            stamp = files.stamp()
            if stamp == seen[0]:
                return None
            found = read(files)
            seen[0] = stamp
        except (OSError, TlsError) as error:
            log.warning("certificates not reloaded, the last ones stay", error=str(error))
            return None
        log.info("certificates reloaded", certificate=str(files.certificate))
        return found

    return grpc.dynamic_ssl_server_credentials(
        first, changed, require_client_authentication=files.client_ca is not None
    )
