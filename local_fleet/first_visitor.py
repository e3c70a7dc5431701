"""The first visitor of a scene that nobody has held yet: one whose visit was predicted, and one whose was not.

Three nodes, nothing of either scene anywhere. A minute ahead of the predicted visit the fleet is told, as the
autoscaler tells it: a node that is empty fetches the scene to its disk, and the pod that then starts there takes it
into memory. The other visitor comes unannounced. Without warm-up nobody is told anything and both wait for the fetch.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import httpx2

from autoscaler.decision import WarmAsk
from fleet.scene import SceneId, parse_scene_id
from local_fleet.cluster import LocalCluster
from local_fleet.orbits import encode_bodies, orbit_of
from local_fleet.pods import Pods
from renderer import made
from renderer.catalogue import Catalogue, CatalogueEntry, DefaultCamera, save_catalogue
from renderer.formats import ply, read_header
from renderer.scene_source import digest_of

FETCH_TAKES_S = 3.0
PREDICTED, UNPREDICTED = parse_scene_id("premiere-predicted"), parse_scene_id("premiere-unpredicted")
_SIZE_LIMITS_BYTES = (1_000_000, 60_000_000)
_SHAPES = {PREDICTED: "knot", UNPREDICTED: "terrain"}
_ANSWER_WITHIN_S = 60.0
_POLL_S = 0.5


@dataclass(frozen=True, slots=True)
class Visits:
    """What the two visitors met. `fetch_s` is what the scene's bytes take on the node's line to the object store."""

    lead_s: float  # from the prediction to the visit
    fetch_s: float
    predicted_wait_s: float  # from the request until the first frame was being rendered
    unpredicted_wait_s: float
    predicted_node: str  # that was empty and was told; empty text where warm-up is off

    def told(self) -> str:
        """Both in one line."""
        told = f"told {self.lead_s:.0f} s before" if self.predicted_node else "told to nobody: warm-up is off"
        return (
            f"first visitor of a predicted scene ({told}) waited {self.predicted_wait_s:.2f} s, "
            f"of an unpredicted one {self.unpredicted_wait_s:.2f} s; a fetch takes {self.fetch_s:.1f} s"
        )


@dataclass(frozen=True, slots=True)
class Premieres:
    """The scenes of the two visitors, and the fleet's catalogue with them."""

    entries: dict[SceneId, CatalogueEntry]
    catalogue: Catalogue
    catalogue_file: Path
    resident_bytes: int  # of one


def make_premieres(folder: Path, known: Catalogue, fetch_bytes_per_s: float, seed: int) -> Premieres:
    """Write both scenes, of a size that the line needs three seconds for, and the catalogue that holds them too."""
    folder.mkdir()
    wanted_bytes = min(max(FETCH_TAKES_S * fetch_bytes_per_s, _SIZE_LIMITS_BYTES[0]), _SIZE_LIMITS_BYTES[1])
    entries = {scene: _write(folder, scene, shape, wanted_bytes, seed) for scene, shape in _SHAPES.items()}
    catalogue = Catalogue([*known.entries.values(), *entries.values()])
    file = folder / "catalogue.json"
    save_catalogue(catalogue, file)
    return Premieres(entries, catalogue, file, max(entry.resident_bytes or 0 for entry in entries.values()))


def _write(folder: Path, scene: SceneId, shape: str, wanted_bytes: float, seed: int) -> CatalogueEntry:
    path = folder / f"{scene}.ply"
    ply.write(path, made.make(shape, 1000, seed))
    ply.write(path, made.make(shape, round(1000 * wanted_bytes / path.stat().st_size), seed))
    header = read_header(path)
    return CatalogueEntry(
        scene,
        path.as_uri(),
        digest=digest_of(path),
        source_bytes=path.stat().st_size,
        resident_bytes=header.resident_bytes,
        gaussians=header.gaussians,
        default_camera=DefaultCamera(made.EYE, made.TARGET),
    )


class FirstVisitors:
    """The two visits of one demo: `predict` as early as the fleet has agents, `visit` once pods are ready."""

    def __init__(self, premieres: Premieres, gateway_url: str, lead_s: float, fetch_bytes_per_s: float) -> None:
        self._premieres, self._gateway_url = premieres, gateway_url
        self._lead_s = lead_s
        entry = premieres.entries[PREDICTED]
        self._fetch_s = (entry.source_bytes or 0) / fetch_bytes_per_s
        self._visit_s = time.monotonic()  # where nobody is told, there is nothing to wait for
        self._node = ""

    def predict(self, cluster: LocalCluster, node: str) -> None:
        """The visit is `lead_s` from now: have the scene on the disk of a node that is empty."""
        self._node = node
        self._visit_s = time.monotonic() + self._lead_s
        cluster.warm(cluster.pools()[0], [WarmAsk(PREDICTED, "disk", self._lead_s, node=node)])

    def visit(self, cluster: LocalCluster, pods: Pods, note: Callable[[str], None]) -> Visits:
        """Both visitors, the predicted one first: a pod may be too small for both scenes.

        Raises RuntimeError where a frame does not come.
        """
        if self._node:
            self._into_memory(cluster, pods, note)
        time.sleep(max(0.0, self._visit_s - time.monotonic()))
        predicted_wait_s = self._wait_s(PREDICTED)
        return Visits(self._lead_s, self._fetch_s, predicted_wait_s, self._wait_s(UNPREDICTED), self._node)

    def _into_memory(self, cluster: LocalCluster, pods: Pods, note: Callable[[str], None]) -> None:
        """A pod of the told node takes the scene from its disk, once it is there.

        Every ask is repeated until it is carried out, as the autoscaler repeats its own: each may get lost.
        """
        pod = next((pod for pod in pods.listing() if pod.node == self._node and pod.stage == "ready"), None)
        if pod is None:
            raise RuntimeError(f"no pod of {self._node} is ready; see the notes above")
        to_memory = WarmAsk(PREDICTED, "memory", self._lead_s, pod_uid=pod.uid)
        to_disk = WarmAsk(PREDICTED, "disk", self._lead_s, node=self._node)
        while time.monotonic() < self._visit_s:
            if cluster.is_resident(pod, PREDICTED):
                note(
                    f"{self._visit_s - time.monotonic():.0f} s before the visit the scene is in memory on {self._node}"
                )
                return
            is_on_disk = cluster.has_on_disk(self._node, PREDICTED)
            cluster.warm(cluster.pools()[0], [to_memory if is_on_disk else to_disk])
            time.sleep(_POLL_S)
        note("the predicted scene is not in memory yet, and its visitor is there")

    def _wait_s(self, scene: SceneId) -> float:
        body = encode_bodies(orbit_of(self._premieres.entries[scene]), (256, 256), {"format": "jpeg"}, poses=1)[0]
        answer = httpx2.post(
            self._gateway_url + "/v1/render",
            content=body,
            headers={"content-type": "application/json"},
            timeout=_ANSWER_WITHIN_S,
        )
        if answer.status_code != 200:
            raise RuntimeError(f"no frame of {scene} came: {answer.status_code} {answer.text[:200]}")
        return float(answer.headers["X-Splatfleet-Wait-Seconds"])
