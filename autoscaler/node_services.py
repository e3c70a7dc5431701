"""The exporter and the scene agent of every node: where they listen, and what the exporters last said."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import httpx2
import msgspec
import structlog

from fleet.digest import DIGEST_PATH, NodeDigest
from fleet.labels import EXPORTER_PORT, EXPORTER_PORT_NAME, SCENE_AGENT_PORT, SCENE_AGENT_PORT_NAME
from kube.objects import Pod

TIMEOUT_S = 2.0
MAX_DIGEST_BYTES = 16 * 2**20
THREADS = 16
log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Addresses:
    """URLs by node."""

    exporters: Mapping[str, str] = field(default_factory=dict)
    agents: Mapping[str, str] = field(default_factory=dict)
    agent_scheme: str = "http"  # of agents that are found


def addresses_of(pods: Iterable[Pod], beside: Iterable[Pod], given: Addresses) -> Addresses:
    """Where the pods of the DaemonSet listen, and renderers that hold an exporter; what was given by hand wins."""
    exporters, agents = {}, {}
    for pod in beside:
        if pod.status.pod_ip and pod.ready and pod.spec.node_name and not pod.terminating:
            exporters[pod.spec.node_name] = f"http://{pod.address(EXPORTER_PORT_NAME, EXPORTER_PORT)}"
    for pod in pods:
        if pod.status.pod_ip and pod.spec.node_name and not pod.terminating:
            exporters[pod.spec.node_name] = f"http://{pod.address(EXPORTER_PORT_NAME, EXPORTER_PORT)}"
            agent = pod.address(SCENE_AGENT_PORT_NAME, SCENE_AGENT_PORT)
            agents[pod.spec.node_name] = f"{given.agent_scheme}://{agent}"
    return Addresses(exporters | dict(given.exporters), agents | dict(given.agents))


class NodeServices:
    """Asks every exporter for its digest every `poll_s`, in threads of its own, from `start` to `close`.

    A digest stays when its exporter does not answer, as a node does not lose its disk with it; it goes with its node.
    """

    def __init__(self, addresses: Callable[[], Addresses], poll_s: float) -> None:
        self._addresses = addresses
        self._poll_s = poll_s
        self._client = httpx2.Client(timeout=TIMEOUT_S, follow_redirects=False, trust_env=False)
        self._decode = msgspec.json.Decoder(NodeDigest).decode
        self._digests: dict[str, NodeDigest] = {}
        self._etags: dict[str, str] = {}
        self._failing: set[str] = set()
        self._stopping = threading.Event()
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="digest")
        self._thread = threading.Thread(target=self._run, daemon=True, name="digests")

    def start(self) -> NodeServices:
        self._thread.start()
        return self

    def close(self) -> None:
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join(TIMEOUT_S + 1.0)
        self._pool.shutdown(wait=False, cancel_futures=True)
        self._client.close()

    def digests(self) -> dict[str, NodeDigest]:
        return dict(self._digests)

    def exporters(self) -> list[str]:
        """URLs, to scrape."""
        return list(self._addresses().exporters.values())

    def agent(self, node: str) -> str | None:
        """URL of a node's scene agent."""
        return self._addresses().agents.get(node)

    def refresh(self) -> None:
        """Ask everybody once."""
        exporters = self._addresses().exporters
        for node in set(self._digests) - set(exporters):
            self._digests.pop(node, None)
            self._etags.pop(node, None)
        list(self._pool.map(self._ask, exporters, exporters.values()))

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                self.refresh()
            except RuntimeError:  # the pool was shut down under us
                return
            self._stopping.wait(self._poll_s)

    def _ask(self, node: str, url: str) -> None:
        etag = self._etags.get(node)
        try:
            answer = self._client.get(url + DIGEST_PATH, headers={"If-None-Match": etag} if etag else None)
            if answer.status_code != 304:
                answer.raise_for_status()
                if len(answer.content) > MAX_DIGEST_BYTES:
                    raise ValueError(f"{len(answer.content)} bytes, expected at most {MAX_DIGEST_BYTES}")
                digest = self._decode(answer.content)
                if digest.node != node:
                    raise ValueError(f"is the digest of node {digest.node!r}")
                self._digests[node] = digest
                self._etags[node] = answer.headers.get("etag", "")
            self._failing.discard(node)
        except (httpx2.HTTPError, httpx2.InvalidURL, msgspec.MsgspecError, ValueError) as error:
            if node not in self._failing:  # once, not every few seconds
                log.warning("no digest, the last one stays", node=node, url=url, error=str(error))
            self._failing.add(node)
