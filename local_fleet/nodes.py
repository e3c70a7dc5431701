"""Nodes of the local fleet: a folder each, with a scene store, a byte budget and one GPU cut into slices."""

from __future__ import annotations

import dataclasses
import json
import uuid
from dataclasses import dataclass
from pathlib import Path

from fleet.digest import GpuDigest, Slice
from renderer.scene_store import SceneStore

GPU_MODEL = "H100-80"
POD_PROFILE = "1g.10gb"

# Legal layouts of an 8-slice part (research: profile, first memory slice). The middle node keeps a 3g slice,
# so that a node can be full for our pods while its GPU is not.
SEVEN_SMALL = tuple((POD_PROFILE, start) for start in range(7))
FOUR_SMALL_ONE_BIG = (*((POD_PROFILE, start) for start in range(4)), ("3g.40gb", 4))


@dataclass(frozen=True, slots=True)
class LocalNode:
    """One node: what a kubelet and a device plugin would know of it."""

    name: str
    folder: Path
    store_capacity_bytes: int
    gpu: GpuDigest

    @property
    def store(self) -> Path:
        return self.folder / "scene-store"

    @property
    def gpus_file(self) -> Path:
        return self.folder / "gpus.json"

    def slices(self, profile: str) -> list[str]:
        """Names `<gpu uuid>/<profile>@<start>` of the healthy slices of a profile, lowest start first."""
        return [
            f"{self.gpu.uuid}/{cut.profile}@{cut.start}"
            for cut in sorted(self.gpu.slices, key=lambda cut: cut.start)
            if cut.profile == profile and cut.healthy
        ]


def make_nodes(folder: Path, store_capacity_bytes: int, seed: int) -> list[LocalNode]:
    """Three nodes under `folder`, their folders and GPU layout files written."""
    nodes = []
    for number, layout in enumerate((SEVEN_SMALL, FOUR_SMALL_ONE_BIG, SEVEN_SMALL), start=1):
        name = f"node-{number}"
        gpu_uuid = f"GPU-{uuid.uuid5(uuid.NAMESPACE_OID, f'{seed}/{name}')}"
        cuts = tuple(Slice(profile, start) for profile, start in layout)
        node = LocalNode(name, folder / name, store_capacity_bytes, GpuDigest(gpu_uuid, GPU_MODEL, slices=cuts))
        node.folder.mkdir(parents=True)
        SceneStore(node.store, store_capacity_bytes)  # says its capacity from the start, before a pod uses it
        node.gpus_file.write_text(json.dumps({"gpus": [dataclasses.asdict(node.gpu)]}))
        nodes.append(node)
    return nodes
