"""Steady requests at whatever gateway pod is ready, as a Service would send them; what became of each."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import httpx2

from fleet.labels import GATEWAY_PORT
from kube.objects import Pod
from kube.reflector import Reflector

TIMEOUT_S = 30.0
MOST_OPEN = 48


@dataclass(frozen=True, slots=True)
class Answer:
    """`status` 0 is none; `begun_s` is monotonic."""

    begun_s: float
    status: int
    pod: str = ""
    cold: str = ""
    cache: str = ""
    frame: int = 0  # hash of the picture's bytes
    why: str = ""


class Traffic:
    """Sends `bodies` in turn at a steady rate until it is stopped, each in a thread: no answer delays another."""

    def __init__(self, gateways: Reflector[Pod], bodies: Sequence[bytes], rate_per_s: float) -> None:
        self.answers: list[Answer] = []
        self.open_s: set[float] = set()  # when those began that have no answer yet
        self.rate_per_s = rate_per_s
        self._gateways = gateways
        self._bodies = itertools.cycle(bodies)
        self._client = httpx2.Client(timeout=TIMEOUT_S, trust_env=False)
        self._stopping = threading.Event()
        self._threads = ThreadPoolExecutor(MOST_OPEN, thread_name_prefix="request")
        self._clock = threading.Thread(target=self._run, name="traffic", daemon=True)
        self._clock.start()

    def stop(self) -> None:
        """Send no more and wait for every answer."""
        self._stopping.set()
        self._clock.join()
        self._threads.shutdown(wait=True)
        self._client.close()

    def __enter__(self) -> Traffic:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def since(self, begun_s: float) -> list[Answer]:
        return [answer for answer in list(self.answers) if answer.begun_s >= begun_s]

    def answered(self, moment_s: float) -> bool:
        """Whether every request that began before a moment has its answer."""
        return all(begun_s >= moment_s for begun_s in self.open_s.copy())

    def lost(self, begun_s: float = 0.0) -> list[Answer]:
        """Requests without a frame among those that began after a moment."""
        return [answer for answer in self.since(begun_s) if answer.status != 200]

    def _run(self) -> None:
        due_s = time.monotonic()
        while not self._stopping.wait(max(0.0, due_s - time.monotonic())):
            due_s += 1.0 / self.rate_per_s
            self._threads.submit(self._ask, next(self._bodies))

    def _ask(self, body: bytes) -> None:
        begun_s = time.monotonic()
        self.open_s.add(begun_s)
        try:
            self.answers.append(self._answer(begun_s, body))
        finally:
            self.open_s.discard(begun_s)

    def _answer(self, begun_s: float, body: bytes) -> Answer:
        try:
            url = f"http://{self._gateway()}:{GATEWAY_PORT}/v1/render"
            told = self._client.post(url, content=body, headers={"content-type": "application/json"})
        except (httpx2.HTTPError, LookupError) as error:
            return Answer(begun_s, 0, why=f"{type(error).__name__}: {error}")
        of = told.headers.get
        pod, cold, cache = (of(f"x-splatfleet-{name}", "") for name in ("pod", "cold", "cache"))
        why = "" if told.status_code == 200 else told.text[:300]
        return Answer(begun_s, told.status_code, pod, cold, cache, hash(told.content), why)

    def _gateway(self) -> str:
        ready = [pod.status.pod_ip for pod in self._gateways.items() if pod.ready and not pod.terminating]
        if not ready:
            raise LookupError("no gateway is ready")
        return ready[0]
