"""Where the API server is and who we are: a kubeconfig, or what a pod is given."""

from __future__ import annotations

import os
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from kube.errors import ConfigError

NAMESPACE_FILE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
KUBECONFIG_ENV = "KUBECONFIG"


@dataclass(frozen=True, slots=True)
class Access:
    """One loaded configuration; load again where the server answers 401 (a token or certificate was rotated)."""

    host: str
    namespace: str  # of the context, or of the pod that we are
    context: ssl.SSLContext | None  # None: the server speaks plain HTTP
    proxy: str | None  # None: asked directly
    configuration: Any  # of the kubernetes package; it reads a mounted token again once a minute

    def authorization(self) -> str | None:
        """The header's value now; raises ConfigError where a token cannot be read."""
        try:
            found = self.configuration.get_api_key_with_prefix("BearerToken", "authorization")
        except Exception as error:  # an exec plugin, a token file: whatever the package meets
            raise ConfigError(f"credentials for {self.host}: {error}") from error
        # A token file ends with a newline, and a header must not.
        return str(found).strip() if found else (self.configuration.get_basic_auth_token() or None)


def load_access(kubeconfig: Path | None = None, context: str | None = None) -> Access:
    """`kubeconfig`, else $KUBECONFIG, else the service account of the pod, else ~/.kube/config; raises ConfigError."""
    from kubernetes import client

    config = _package()
    configuration = client.Configuration()
    given = str(kubeconfig) if kubeconfig else os.environ.get(KUBECONFIG_ENV)
    if not given and not os.environ.get("KUBERNETES_SERVICE_HOST"):
        given = str(Path("~/.kube/config").expanduser())
    try:
        if given:
            config.load_kube_config(given, context, configuration, persist_config=False)
            namespace = _context_namespace(given, context)
        else:
            config.load_incluster_config(configuration)
            namespace = NAMESPACE_FILE.read_text().strip()
    except Exception as error:  # the package raises what it meets: its own, OSError, yaml's, binascii's
        source = f"kubeconfig {given}" if given else "service account of the pod"
        fix = "set KUBECONFIG to a file that kubectl works with, or run in a pod with a service account"
        raise ConfigError(f"{source}: {error}; {fix}") from error
    tls = None if configuration.host.startswith("http://") else _tls(configuration)
    return Access(configuration.host.rstrip("/"), namespace or "default", tls, _proxy(configuration), configuration)


def _package() -> Any:
    """The configuration part of the kubernetes package, which is partly typed."""
    from kubernetes import config

    return config


def _context_namespace(kubeconfig: str, context: str | None) -> str:
    contexts, active = _package().list_kube_config_contexts(kubeconfig)
    chosen = next((found for found in contexts if found["name"] == context), active)
    return str(chosen["context"].get("namespace") or "default")


def _proxy(configuration: Any) -> str | None:
    """The proxy of the kubeconfig or the environment, where NO_PROXY does not name the server; raises ConfigError."""
    from kubernetes.client.rest import should_bypass_proxies

    found = str(configuration.proxy or "")
    if not found or should_bypass_proxies(configuration.host, configuration.no_proxy or ""):
        return None
    url = found if "://" in found else f"http://{found}"  # as curl reads it
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    if not usable:  # what it is holds a password
        scheme = url.partition("://")[0]
        raise ConfigError(
            f"proxy of {configuration.host} cannot be used ({scheme}://...): expected http://HOST:PORT or "
            "https://HOST:PORT in proxy-url or HTTPS_PROXY, or the server in NO_PROXY"
        )
    return url


def _tls(configuration: Any) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=configuration.ssl_ca_cert)
        if configuration.cert_file:
            context.load_cert_chain(configuration.cert_file, configuration.key_file)
    except (OSError, ValueError) as error:
        files = f"CA {configuration.ssl_ca_cert}, certificate {configuration.cert_file}"
        raise ConfigError(f"TLS files for {configuration.host} ({files}): {error}") from error
    if not configuration.verify_ssl:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context
