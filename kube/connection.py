"""Raw requests to the API server: bytes in, bytes out, each with a deadline."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import httpx2

from kube.access import Access, load_access
from kube.errors import ConfigError, Unreachable, refused

CONNECT_S = 3.0
DEADLINE_S = 10.0
AT_HAND_S = 0.001  # a part that comes within this was not waited for
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
        self._access = access
        self._client = httpx2.Client(
            base_url=access.host,
            verify=access.context if access.context is not None else True,
            proxy=access.proxy,
            trust_env=False,  # the proxy was settled with the configuration
            limits=httpx2.Limits(max_connections=None, max_keepalive_connections=16, keepalive_expiry=30.0),
            headers={"User-Agent": USER_AGENT, "Accept": "application/json"},
        )

    def close(self) -> None:
        self._client.close()

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
            timeout = httpx2.Timeout(left_s, connect=min(left_s, CONNECT_S))
            with self._answer(method, path, body, content, query, timeout) as response:
                found = self._read(response, end_s)
                if response.status_code == 401 and attempt == 1 and self._reload():
                    continue
                if response.is_success:
                    return found
                raise refused(response.status_code, found, response.headers.get("Retry-After"))
        raise AssertionError("a second answer is returned or raised")

    def get(self, path: str, query: Mapping[str, str] | None = None, deadline_s: float = DEADLINE_S) -> bytes:
        return self.request("GET", path, query=query, deadline_s=deadline_s)

    @contextlib.contextmanager
    def stream(self, path: str, query: Mapping[str, str], silence_s: float) -> Iterator[Stream]:
        """A GET whose lines come as they are sent; `silence_s` without a byte is Unreachable."""
        timeout = httpx2.Timeout(silence_s, connect=CONNECT_S)
        with self._answer("GET", path, None, {}, query, timeout) as response:
            if not response.is_success:
                body = self._read(response, time.monotonic() + silence_s)
                if response.status_code == 401:
                    self._reload()
                raise refused(response.status_code, body, response.headers.get("Retry-After"))
            yield Stream(response)

    @contextlib.contextmanager
    def _answer(
        self,
        method: str,
        path: str,
        body: bytes | None,
        headers: Mapping[str, str],
        query: Mapping[str, str] | None,
        timeout: httpx2.Timeout,
    ) -> Iterator[httpx2.Response]:
        authorization = self._access.authorization()
        sent = {**headers, **({"Authorization": authorization} if authorization else {})}
        try:
            with self._client.stream(
                method, path, content=body, params=query, headers=sent, timeout=timeout
            ) as response:
                yield response
        except httpx2.HTTPError as error:
            raise Unreachable(f"{method} {self.host}{path}: {type(error).__name__} {error}".rstrip()) from error

    @staticmethod
    def _read(response: httpx2.Response, end_s: float) -> bytes:
        parts: list[bytes] = []
        for part in response.iter_bytes():
            parts.append(part)
            if time.monotonic() > end_s:
                raise Unreachable(f"{response.request.method} {response.request.url.path}: later than its deadline")
        return b"".join(parts)

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

    def __init__(self, response: httpx2.Response) -> None:
        self._response = response

    def lines(self, gather_s: float = 0.0) -> Iterator[bytes]:
        """Each line without its end; a last line without one was cut off and is left out.

        For `gather_s` after a read that had to be waited for nothing is read, so that what comes meanwhile is read
        in one go. The server sends each event as a chunk, and each is a part here: a pause after every part would bound
        how many events a second are ever read.
        """
        rest = b""
        asked_s = paused_s = time.monotonic()
        for part in self._response.iter_bytes():
            came_s = time.monotonic()
            *whole, rest = (rest + part).split(b"\n")
            yield from (line for line in whole if line.strip())
            if came_s - asked_s > AT_HAND_S and came_s - paused_s >= gather_s > 0.0:
                time.sleep(gather_s)
                paused_s = time.monotonic()
            asked_s = time.monotonic()

    def abort(self) -> None:
        """End the stream now: the reader gets the end of it or Unreachable."""
        network = self._response.extensions.get("network_stream")
        raw = network.get_extra_info("socket") if network is not None else None
        if raw is not None:
            with contextlib.suppress(OSError):
                socket.socket.shutdown(raw, socket.SHUT_RDWR)
