"""What an idle node fetches on its own: the scenes that the fleet asks for most, into room that nobody uses."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence

import httpx2
import structlog
from prometheus_client.parser import text_string_to_metric_families

from fleet import metrics
from renderer.agent_work import AgentWork
from renderer.catalogue import LiveCatalogue
from renderer.popularity import Popularity, most_wanted
from renderer.scene_store import SceneStore

log = structlog.get_logger()

_FAILED_FOR_S = 600.0


class Preload:
    """A thread that looks at the gateways and asks its own node for scenes while nobody else asks for any."""

    def __init__(
        self, work: AgentWork, store: SceneStore, catalogue: LiveCatalogue, gateways: Sequence[str], share: float
    ) -> None:
        """At most `share` of the store's capacity is filled like that; nothing is evicted for it."""
        self._work, self._store, self._catalogue = work, store, catalogue
        self._gateways, self._most_bytes = tuple(gateways), share * store.capacity_bytes
        self._failed_until_s: dict[str, float] = {}
        self._popularity = Popularity()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="preload", daemon=True)

    def start(self, every_s: float) -> None:
        self._every_s = every_s
        self._thread.start()

    def close(self) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        with httpx2.Client(timeout=2.0) as client:
            while not self._stop.wait(self._every_s):
                for gateway in self._gateways:
                    try:
                        counts = _requests(client.get(f"{gateway}/metrics").raise_for_status().text)
                    except (httpx2.HTTPError, ValueError) as error:
                        log.warning("no popularity", gateway=gateway, reason=str(error) or type(error).__name__)
                    else:
                        self._popularity.add(gateway, counts, time.monotonic())
                self._ask()

    def _ask(self) -> None:
        if not self._work.is_idle():
            return
        now_s = time.monotonic()
        for failed in self._work.failed():
            self._failed_until_s.setdefault(failed, now_s + _FAILED_FOR_S)
        self._failed_until_s = {scene: until_s for scene, until_s in self._failed_until_s.items() if until_s > now_s}
        here = {record.id for record in self._store.records()} | self._failed_until_s.keys()
        room_bytes = self._most_bytes - self._store.used_bytes()
        scene = most_wanted(self._popularity.requests, self._catalogue.current().entries, here, room_bytes)
        if scene is not None:
            self._work.preload(scene)
            log.info("preload", scene=scene)


def _requests(text: str) -> dict[str, float]:
    """Requests by scene in a gateway's exposition; raises ValueError for none."""
    found: dict[str, float] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.name == metrics.GATEWAY_REQUESTS.name and sample.labels.get("scene"):
                found[sample.labels["scene"]] = found.get(sample.labels["scene"], 0.0) + sample.value
    return found
