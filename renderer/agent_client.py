"""Scene agents as their callers see them: one request each, no secret in any error."""

from __future__ import annotations

import ssl
import threading
from typing import Any

import httpx2
from prometheus_client.parser import text_string_to_metric_families

from fleet.metrics import Metric
from fleet.scene import SCENES_PATH
from kube.tls import ClientTls
from renderer.credentials import BearerTokens


class AgentError(Exception):
    """An agent that did not answer or refused; one line."""


class AgentClient:
    """One node's agent; may be used from any thread."""

    def __init__(self, url: str, tokens: BearerTokens, timeout_s: float = 5.0, tls: ClientTls | None = None) -> None:
        """`tls` says how an https:// agent is checked; without it by the system's CAs."""
        self.url = url.rstrip("/")
        self._tokens = tokens
        self._timeout_s = timeout_s
        self._tls = tls
        self._lock = threading.Lock()
        self._context: ssl.SSLContext | None = None
        self._client = self._new_client()

    def _new_client(self) -> httpx2.Client:
        self._context = self._tls.context() if self._tls is not None else None
        verify = self._context if self._context is not None else self.url.startswith("https://")
        return httpx2.Client(timeout=self._timeout_s, follow_redirects=False, verify=verify)

    def _current(self) -> httpx2.Client:
        """A client of the newest certificates; requests that run end with theirs."""
        if self._tls is not None and self._tls.context() is not self._context:
            with self._lock:
                self._client = self._new_client()
        return self._client

    def ask(self, scene: str, deadline_s: float, priority: int = 0) -> dict[str, Any]:
        """Have a scene on the node's disk in so many seconds; its state (agent_work.AskState). Raises AgentError."""
        body = {"deadline_s": max(0.0, deadline_s), "priority": priority}
        return self._json("PUT", f"{SCENES_PATH}/{scene}", body)

    def evict(self, scene: str) -> None:
        """Forget a scene; raises AgentError where a reader holds it."""
        self._request("DELETE", f"{SCENES_PATH}/{scene}")

    def listing(self) -> dict[str, Any]:
        """What lies on the node and what is asked for; raises AgentError."""
        return self._json("GET", SCENES_PATH)

    def counter(self, metric: Metric, **labels: str) -> float:
        """Sum of the samples of a counter that carry `labels`; raises AgentError."""
        text = self._request("GET", "/metrics").text
        return sum(
            sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
            if sample.name == metric.name and labels.items() <= sample.labels.items()
        )

    def close(self) -> None:
        self._client.close()

    def _json(self, verb: str, path: str, body: object = None) -> dict[str, Any]:
        answer: dict[str, Any] = self._request(verb, path, body).json()
        return answer

    def _request(self, verb: str, path: str, body: object = None) -> httpx2.Response:
        try:
            answer = self._current().request(verb, self.url + path, json=body, headers=self._tokens.headers())
        except httpx2.HTTPError as error:
            raise AgentError(f"scene agent {self.url}: {error or type(error).__name__}") from None
        if not answer.is_success:
            raise AgentError(f"scene agent {self.url}: {verb} {path}: {answer.status_code} {answer.text[:300]}")
        return answer
