"""Whether a client on the pod's own node gains by Triton's system shared memory: the same frames both ways, in turn."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import numpy as np
import tritonclient.grpc as grpc
from tritonclient.utils import shared_memory

from fleet import labels
from fleet.scene import SceneId
from local_fleet.triton_files import DEFAULT_BACKENDS
from local_fleet.triton_server import TritonServer, build_backends
from renderer import made
from renderer.camera import look_at, matrices
from renderer.catalogue import Catalogue, CatalogueEntry, save_catalogue
from renderer.client import inputs_of, reply_of
from renderer.formats import ply

_SIZES = ((512, 512), (1280, 720), (1920, 1080))
_ROUNDS = 25


def main() -> None:
    """Print the milliseconds at the client beyond the pod's service time, of files and raw pictures, both ways."""
    with tempfile.TemporaryDirectory(prefix="splatfleet-bench-") as name:
        folder = Path(name)
        ply.write(folder / "knot.ply", made.make("knot", 500))
        save_catalogue(
            Catalogue([CatalogueEntry(SceneId("knot"), (folder / "knot.ply").as_uri())]), folder / "catalogue.json"
        )
        environment = {
            labels.CATALOGUE_ENV: str(folder / "catalogue.json"),
            labels.SCENE_CACHE_ENV: str(folder / "store"),
            labels.SCENES_ENV: "knot",
            labels.RASTERIZER_ENV: "cpu",
        }
        with TritonServer(build_backends(DEFAULT_BACKENDS), folder, environment) as server:
            server.start()
            server.wait_ready()
            client = grpc.InferenceServerClient(server.grpc_address)
            for size in _SIZES:
                for form, output in (("jpeg", "ENCODED_IMAGE"), ("raw", "RENDERED_IMAGE")):
                    _compare(client, size, form, output)


def _compare(client: grpc.InferenceServerClient, size: tuple[int, int], form: str, output: str) -> None:
    room = size[0] * size[1] * 3
    region = shared_memory.create_shared_memory_region("frame", f"/splatfleet-bench-{size[0]}", room)
    client.register_system_shared_memory("frame", f"/splatfleet-bench-{size[0]}", room)
    try:
        plain, shared = [], []
        for _ in range(_ROUNDS):
            plain.append(_over_ms(client, size, form, None, output))
            shared.append(_over_ms(client, size, form, room, output))
        print(f"{size[0]}x{size[1]} {form}: gRPC {np.median(plain):.2f} ms, shared memory {np.median(shared):.2f} ms")
    finally:
        client.unregister_system_shared_memory("frame")
        shared_memory.destroy_shared_memory_region(region)


def _over_ms(
    client: grpc.InferenceServerClient, size: tuple[int, int], form: str, room: int | None, output: str
) -> float:
    view, projection = matrices(look_at(made.EYE, made.TARGET, made.UP, 50, *size))
    wanted = [grpc.InferRequestedOutput(output), grpc.InferRequestedOutput("STATS")]
    if room is not None:
        wanted[0].set_shared_memory("frame", room)
    began_s = time.perf_counter()
    result = client.infer(
        labels.MODEL_NAME,
        inputs_of(grpc, view, projection),
        outputs=wanted,
        parameters={"width": size[0], "height": size[1], "format": form},
    )
    took_s = time.perf_counter() - began_s
    stats = reply_of(result).stats if room is None else _stats(result)
    return 1e3 * (took_s - float(stats["service_s"]))


def _stats(result: grpc.InferResult) -> dict[str, float]:
    import json

    found: dict[str, float] = json.loads(result.as_numpy("STATS")[0])
    return found


if __name__ == "__main__":
    main()
