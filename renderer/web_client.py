"""HTTP connections that are kept, redirects that are judged before they are followed, requests that can be ended."""

from __future__ import annotations

import contextlib
import http.client
import select
import socket
import ssl
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import SplitResult, urljoin, urlsplit
from urllib.request import getproxies, proxy_bypass

from kube.tls import ClientTls
from renderer.scene_roots import OutsideRoots, SceneRoots
from renderer.scene_source import SourceError, TryAgain

_MOST_REDIRECTS = 5
_REDIRECTS = (301, 302, 303, 307, 308)
_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
class Access:
    """How a server is asked.

    `headers` go to its own host alone. A redirect is followed where `roots` allow its target, without roots never.
    """

    headers: Mapping[str, str] = field(default_factory=dict)
    tls: ClientTls | None = None
    roots: SceneRoots | None = None
    connect_timeout_s: float = 5.0
    read_timeout_s: float = 20.0
    by_proxy: bool = True  # where HTTP_PROXY, HTTPS_PROXY and NO_PROXY say so


class Turn:
    """One request while it lasts; `end` wakes the thread that waits for its answer."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._connection: http.client.HTTPConnection | None = None
        self._is_over = False
        self.origin = ""  # of the server that it went to last

    def take(self, connection: http.client.HTTPConnection, origin: str) -> None:
        """It goes over this connection now; raises SourceError where it is not wanted any more."""
        with self._lock:
            self._connection, self.origin = connection, origin
            if self._is_over:
                connection.close()
                raise SourceError("the request was given up")

    def give_back(self) -> http.client.HTTPConnection | None:
        """The connection, which others may use now."""
        with self._lock:
            connection, self._connection = self._connection, None
            return connection

    def has_more(self) -> bool:
        """Whether bytes of the answer have come that were not read yet."""
        sock = self._connection.sock if self._connection is not None else None
        if sock is None:
            return False
        poll = select.poll()
        poll.register(sock, select.POLLIN)
        return bool(poll.poll(0))

    def close(self) -> None:
        """End its connection, in whatever state."""
        connection = self.give_back()
        if connection is not None and connection.sock is not None:
            with contextlib.suppress(OSError):  # closing alone would not wake a thread that reads
                connection.sock.shutdown(socket.SHUT_RDWR)
            connection.close()

    def end(self) -> None:
        """Nobody waits for it any more."""
        with self._lock:
            self._is_over = True
        self.close()


class WebClient:
    """Requests for one scene, whose `uri` its errors name; may be used from several threads."""

    def __init__(self, uri: str, access: Access) -> None:
        self._uri, self._access = uri, access
        self._lock = threading.Lock()
        self._idle: dict[str, list[http.client.HTTPConnection]] = {}  # by scheme, host and port

    def ask(self, turn: Turn, verb: str, url: str, span: str = "") -> http.client.HTTPResponse:
        """The answer to one request, redirects followed; raises SourceError or TryAgain."""
        own = dict(self._access.headers)
        asked = {"range": span} if span else {}
        for _ in range(_MOST_REDIRECTS + 1):
            answer = self._exchange(turn, verb, urlsplit(url), {**own, **asked})
            if answer.status not in _REDIRECTS:
                return answer
            target = self._judged(url, answer.getheader("location", ""))
            if _origin(urlsplit(target)) != _origin(urlsplit(url)):
                own = {}
            turn.close()
            url = target
        raise SourceError(f"{self._uri}: more than {_MOST_REDIRECTS} redirects")

    def done(self, turn: Turn, answer: http.client.HTTPResponse) -> None:
        """The answer was read to its end: keep the connection for the next request, where the server does."""
        keeps = not answer.will_close
        answer.close()
        connection = turn.give_back() if keeps else None
        if connection is not None:
            with self._lock:
                self._idle.setdefault(turn.origin, []).append(connection)

    def _judged(self, url: str, location: str) -> str:
        """Where a redirect leads, if it may be followed; its query may be a secret, so errors tell the host alone."""
        target = urljoin(url, location)
        parts = urlsplit(target)
        to = f"{self._uri}: redirects to {parts.scheme}://{parts.hostname}"
        if not location or parts.scheme not in _PORTS or not parts.hostname or "@" in parts.netloc:
            raise SourceError(f"{self._uri}: redirects to no address")
        if self._access.roots is None:
            raise SourceError(f"{to}, and is not followed anywhere")
        if urlsplit(url).scheme == "https" and parts.scheme == "http":
            raise SourceError(f"{to}, without TLS")
        try:
            self._access.roots.check(f"{parts.scheme}://{parts.netloc}{parts.path}")
        except OutsideRoots:
            raise SourceError(f"{to}, outside the allowed roots {', '.join(self._access.roots.roots)}") from None
        return target

    def _exchange(
        self, turn: Turn, verb: str, url: SplitResult, headers: Mapping[str, str]
    ) -> http.client.HTTPResponse:
        """Over a kept connection, or over a new one where that had been closed meanwhile."""
        origin = _origin(url)
        with self._lock:
            kept = self._idle[origin].pop() if self._idle.get(origin) else None
        proxy = self._proxy(url)
        path = (url.path or "/") + (f"?{url.query}" if url.query else "")
        target = f"{url.scheme}://{url.netloc}{path}" if proxy is not None and url.scheme == "http" else path
        for connection in filter(None, (kept, self._new(url, proxy))):
            try:
                if connection is not kept:
                    connection.connect()
                    connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    connection.sock.settimeout(self._access.read_timeout_s)
                turn.take(connection, origin)
                connection.request(verb, target, headers=dict(headers))
                return connection.getresponse()
            except ssl.SSLCertVerificationError as error:
                raise SourceError(f"{self._uri}: {error.verify_message}") from None
            except (OSError, http.client.HTTPException) as error:
                connection.close()
                if connection is not kept:
                    raise TryAgain(f"{self._uri}: {told(error)}") from None
        raise AssertionError("a new connection was tried last")

    def _proxy(self, url: SplitResult) -> SplitResult | None:
        found = getproxies().get(url.scheme) if self._access.by_proxy else None
        return urlsplit(found) if found and not proxy_bypass(url.hostname or "") else None

    def _new(self, url: SplitResult, proxy: SplitResult | None) -> http.client.HTTPConnection:
        """A connection that is not open yet."""
        asked = (url.hostname or "", url.port or _PORTS[url.scheme])
        host, port = asked if proxy is None else (proxy.hostname or "", proxy.port or _PORTS["http"])
        timeout_s = self._access.connect_timeout_s
        if url.scheme == "http":
            return http.client.HTTPConnection(host, port, timeout=timeout_s)
        context = (self._access.tls or ClientTls()).context()
        secure = http.client.HTTPSConnection(host, port, timeout=timeout_s, context=context)
        if proxy is not None:
            secure.set_tunnel(*asked)
        return secure


def told(error: Exception) -> str:
    """What went wrong; http.client's own errors may quote an address with its signature, so they tell their name."""
    return str(error) if isinstance(error, OSError) and str(error) else type(error).__name__


def _origin(url: SplitResult) -> str:
    return f"{url.scheme}://{url.hostname}:{url.port or _PORTS[url.scheme]}"
