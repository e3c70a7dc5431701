"""Raw requests to the API server: bytes in, bytes out, each with a deadline."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from urllib.parse import unquote, urlencode

import urllib3

from kube.access import Access, load_access
from kube.errors import ConfigError, Unreachable, refused

CONNECT_S = 3.0
DEADLINE_S = 10.0
AT_HAND_S = 0.001  # a part that comes within this was not waited for
PART_BYTES = 1 << 16
KEPT_CONNECTIONS = 64
# A connection that nothing comes through, as that of a watch, is asked about: a lost peer is noticed within a minute,
# where the system lets it be told how often.
_KEEPALIVE = (("TCP_KEEPIDLE", 30), ("TCP_KEEPINTVL", 10), ("TCP_KEEPCNT", 3))
SOCKET_OPTIONS = [
    (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    *((socket.IPPROTO_TCP, getattr(socket, name), value) for name, value in _KEEPALIVE if hasattr(socket, name)),
]
RELOAD_EVERY_S = 5.0  # at most, however often the server says 401
USER_AGENT = "splatfleet"


class Connection:
    """One API server; threads share it. What it is asked for is a path with its query, as in `kubectl get --raw`.

    Every method raises Unreachable where no answer came in time and Refused where the answer is an error.
    """

    def __init__(self, access: Access, kubeconfig: Path | None = None, context: str | None = None) -> None:
        self.namespace = access.namespace
        self.host = access.host
        self._source = (kubeconfig, context)
        self._lock = threading.Lock()
        self._loaded_s = time.monotonic()
        self._set(access)

    @classmethod
    def open(cls, kubeconfig: Path | None = None, context: str | None = None) -> Connection:
        """A connection by `kube.access.load_access`; raises ConfigError. Nothing is sent yet."""
        return cls(load_access(kubeconfig, context), kubeconfig, context)

    def _set(self, access: Access) -> None:
        self._access, self._pool = access, _open_pool(access)

    def close(self) -> None:
        self._pool.clear()

    def request(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        content_type: str = "application/json",
        query: Mapping[str, str] | None = None,
        deadline_s: float = DEADLINE_S,
    ) -> bytes:
        """The whole body of a 2xx answer. The deadline holds for all of it; a dripping server may double it."""
        end_s = time.monotonic() + deadline_s
        content = {"Content-Type": content_type} if body is not None else {}
        for attempt in (1, 2):
            left_s = max(end_s - time.monotonic(), 0.05)
            timeout = urllib3.Timeout(connect=min(left_s, CONNECT_S), read=left_s)
            with self._answer(method, _with_query(path, query), body, content, timeout) as response:
                found = _whole(response, end_s)
                if response.status == 401 and attempt == 1 and self._reload():
                    continue
                if 200 <= response.status < 300:
                    return found
                raise refused(response.status, found, response.headers.get("Retry-After"))
        raise AssertionError("a second answer is returned or raised")

    def get(self, path: str, query: Mapping[str, str] | None = None, deadline_s: float = DEADLINE_S) -> bytes:
        return self.request("GET", path, query=query, deadline_s=deadline_s)

    @contextlib.contextmanager
    def stream(self, path: str, query: Mapping[str, str], silence_s: float) -> Iterator[Stream]:
        """A GET whose lines come as they are sent; `silence_s` without a byte is Unreachable."""
        timeout = urllib3.Timeout(connect=CONNECT_S, read=silence_s)
        with self._answer("GET", _with_query(path, query), None, {}, timeout) as response:
            if not 200 <= response.status < 300:
                body = _whole(response, time.monotonic() + silence_s)
                if response.status == 401:
                    self._reload()
                raise refused(response.status, body, response.headers.get("Retry-After"))
            yield Stream(response)

    @contextlib.contextmanager
    def _answer(
        self, method: str, path: str, body: bytes | None, headers: Mapping[str, str], timeout: urllib3.Timeout
    ) -> Iterator[urllib3.BaseHTTPResponse]:
        """The head of an answer; its connection is kept where the whole body was read."""
        access = self._access
        authorization = access.authorization()
        sent = {"User-Agent": USER_AGENT, "Accept": "application/json", **headers}
        if authorization:
            sent["Authorization"] = authorization
        asked = f"{method} {access.host}{path.partition('?')[0]}"
        try:
            response = self._pool.urlopen(
                method,
                access.host + path,
                body=body,
                headers=sent,
                timeout=timeout,
                retries=False,
                redirect=False,
                preload_content=False,
            )
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise _unreachable(asked, error) from error
        except ValueError:  # its text holds the token
            raise Unreachable(f"{asked}: the credentials are no header that can be sent") from None
        try:
            yield response
        finally:
            response.close()

    def _reload(self) -> bool:
        """Load the configuration again, as its files may have been rotated; False where that was just done."""
        with self._lock:
            if time.monotonic() - self._loaded_s < RELOAD_EVERY_S:
                return False
            self._loaded_s = time.monotonic()
            with contextlib.suppress(ConfigError):  # the old one stays
                self._set(load_access(*self._source))  # requests under way finish with the old client
                return True
        return False


class Stream:
    """The lines of one answer that does not end; `abort` may come from another thread."""

    def __init__(self, response: urllib3.BaseHTTPResponse) -> None:
        self._response = response
        found = getattr(response.connection, "sock", None)
        self._socket = getattr(found, "socket", found)  # of TLS inside the TLS of a proxy, the one below both

    def lines(self, gather_s: float = 0.0) -> Iterator[bytes]:
        """Each line without its end; a last line without one was cut off and is left out.

        For `gather_s` after a read that had to be waited for nothing is read, so that what comes meanwhile is read
        in one go. The server sends each event as a chunk, and each is a part here: a pause after every part would bound
        how many events a second are ever read.
        """
        rest = b""
        asked_s = paused_s = time.monotonic()
        for part in _parts(self._response):
            came_s = time.monotonic()
            *whole, rest = (rest + part).split(b"\n")
            yield from (line for line in whole if line.strip())
            if came_s - asked_s > AT_HAND_S and came_s - paused_s >= gather_s > 0.0:
                time.sleep(gather_s)
                paused_s = time.monotonic()
            asked_s = time.monotonic()

    def abort(self) -> None:
        """End the stream now: the reader gets the end of it or Unreachable."""
        if isinstance(self._socket, socket.socket):
            if self._response.connection is not None:  # else it was read to its end, and the socket may serve others
                with contextlib.suppress(OSError):
                    socket.socket.shutdown(self._socket, socket.SHUT_RDWR)  # TLS's own is not for another thread
        else:  # let go of, as the server closes it after this answer
            with contextlib.suppress(OSError, ValueError, RuntimeError):
                self._response.shutdown()


def _open_pool(access: Access) -> urllib3.PoolManager:
    settings = {"maxsize": KEPT_CONNECTIONS, "ssl_context": access.context, "socket_options": SOCKET_OPTIONS}
    if access.proxy is None:
        return urllib3.PoolManager(**settings)  # type: ignore[arg-type]
    told = urllib3.util.parse_url(access.proxy).auth
    credentials = urllib3.util.make_headers(proxy_basic_auth=unquote(told)) if told else None
    return urllib3.ProxyManager(access.proxy, proxy_headers=credentials, **settings)  # type: ignore[arg-type]


def _with_query(path: str, query: Mapping[str, str] | None) -> str:
    return f"{path}{'&' if '?' in path else '?'}{urlencode(query)}" if query else path


def _parts(response: urllib3.BaseHTTPResponse) -> Iterator[bytes]:
    """The body in parts as they come, each chunk that the server sends one of them; raises Unreachable."""
    try:
        while part := response.read1(PART_BYTES, decode_content=False):  # nothing encoded was asked for
            yield part
    except (urllib3.exceptions.HTTPError, OSError) as error:
        raise _unreachable(f"rest of {response.geturl()}", error) from error


def _whole(response: urllib3.BaseHTTPResponse, end_s: float) -> bytes:
    parts: list[bytes] = []
    for part in _parts(response):
        parts.append(part)
        if time.monotonic() > end_s:
            raise Unreachable(f"{response.geturl()}: later than its deadline")
    return b"".join(parts)


def _unreachable(asked: str, error: Exception) -> Unreachable:
    return Unreachable(f"{asked}: {type(error).__name__} {error}".rstrip())
