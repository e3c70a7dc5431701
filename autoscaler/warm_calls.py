"""Asks for scenes, carried out: a node's disk through its scene agent, a pod's memory through its own `warm` action."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx2
import structlog

from autoscaler.decision import WarmAsk
from fleet.labels import MODEL_NAME, SCENE_AGENT_TOKEN_ENV
from fleet.scene import SCENES_PATH
from kube.tls import ClientTls

TIMEOUT_S = 5.0
THREADS = 4
_IDENTITY = [1.0, 0, 0, 0, 0, 1.0, 0, 0, 0, 0, 1.0, 0, 0, 0, 0, 1.0]
log = structlog.get_logger()


class WarmError(Exception):
    """An ask that was not taken; one line without any secret."""


class WarmCalls:
    """Hands asks to threads, each ask once at a time. `failed` counts those that were not taken."""

    def __init__(
        self,
        agent: Callable[[str], str | None],
        pod: Callable[[str], str | None],
        now_s: Callable[[], float],
        token_file: Path | None = None,
        tls: ClientTls | None = None,
    ) -> None:
        """`agent` gives a node's URL, `pod` the URL of a pod's Triton by uid; `now_s` is the clock of the asks.

        `tls` says how an https:// agent is checked; without it by the system's CAs.
        """
        self.failed = 0
        self._agent = agent
        self._pod = pod
        self._now_s = now_s
        self._token_file = token_file
        self._tls = tls
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="warm")
        self._lock = threading.Lock()
        self._under_way: set[tuple[str, str]] = set()

    def ask(self, asks: Sequence[WarmAsk]) -> None:
        """Returns at once."""
        for ask in asks:
            key = (str(ask.scene), ask.node or ask.pod_uid)
            with self._lock:
                if key in self._under_way:
                    continue
                self._under_way.add(key)
            self._threads.submit(self._carry_out, ask, key)

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _carry_out(self, ask: WarmAsk, key: tuple[str, str]) -> None:
        try:
            if ask.stage == "disk":
                self._warm_disk(ask)
            else:
                self._warm_memory(ask)
        except (WarmError, httpx2.HTTPError, httpx2.InvalidURL, OSError) as error:
            self.failed += 1
            log.warning("scene not warmed", scene=str(ask.scene), stage=ask.stage, where=key[1], error=str(error))
        finally:
            with self._lock:
                self._under_way.discard(key)

    def _warm_disk(self, ask: WarmAsk) -> None:
        url = self._agent(ask.node)
        if url is None:
            raise WarmError(f"node {ask.node} has no scene agent")
        body = {"deadline_s": max(0.0, ask.by_s - self._now_s()), "priority": 0}
        headers = {"authorization": f"Bearer {read_token(self._token_file)}"}
        with self._client() as client:
            answer = client.put(f"{url}{SCENES_PATH}/{ask.scene}", json=body, headers=headers)
        if not answer.is_success:
            raise WarmError(f"scene agent {url}: {answer.status_code} {answer.text[:200]}")

    def _warm_memory(self, ask: WarmAsk) -> None:
        url = self._pod(ask.pod_uid)
        if url is None:
            return  # it is gone, and its memory with it
        tensors = [
            {"name": name, "shape": [4, 4], "datatype": "FP32", "data": _IDENTITY}
            for name in ("VIEW_MATRIX", "PROJECTION_MATRIX")
        ]
        body = {"inputs": tensors, "parameters": {"action": "warm", "preload": True, "scene": str(ask.scene)}}
        with self._client() as client:
            answer = client.post(f"{url}/v2/models/{MODEL_NAME}/infer", json=body)
        if not answer.is_success:
            raise WarmError(f"pod {url}: {answer.status_code} {answer.text[:200]}")

    def _client(self) -> httpx2.Client:
        """A new one each time: asks are a few in a tick, and certificates change."""
        verify = self._tls.context() if self._tls is not None else True
        return httpx2.Client(timeout=TIMEOUT_S, follow_redirects=False, trust_env=False, verify=verify)


def read_token(file: Path | None) -> str:
    """The first line of the file, else of SPLATFLEET_SCENE_AGENT_TOKEN; raises WarmError."""
    where = str(file) if file is not None else SCENE_AGENT_TOKEN_ENV
    try:
        text = file.read_text() if file is not None else os.environ.get(where, "")
    except (OSError, ValueError) as error:
        raise WarmError(f"token file {where} cannot be read: {type(error).__name__}") from None
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if not lines:
        raise WarmError(f"{where} holds no token, expected the scene agents' in its first line")
    return lines[0]
