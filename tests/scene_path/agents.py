"""Scene agents as real processes, and scenes for them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from fleet.metrics import Metric
from fleet.scene import StoreLayout, parse_scene_id
from renderer.agent_client import AgentClient
from renderer.catalogue import CatalogueEntry
from renderer.credentials import BearerTokens
from renderer.formats import ply
from renderer.scene_source import digest_of
from renderer.splats import Splats
from tests.renderer.scenes import random_splats

REPOSITORY = Path(__file__).resolve().parents[2]
TOKEN = "token-of-the-tests-0123456789"
MB = 1_000_000


def make_scene(path: Path, gaussians: int = 800, seed: int = 0) -> Splats:
    splats = random_splats(np.random.default_rng(seed), gaussians, 1)
    path.parent.mkdir(parents=True, exist_ok=True)
    ply.write(path, splats)
    return splats


def entry_of(path: Path, uri: str | None = None) -> CatalogueEntry:
    """The entry of a scene file as a publisher would write it; `uri` where it is served instead."""
    return CatalogueEntry(parse_scene_id(path.stem), uri or path.as_uri(), digest_of(path), path.stat().st_size)


class Agent:
    """`splatfleet scene-agent` of one node in a process of its own."""

    def __init__(
        self,
        folder: Path,
        catalogue: Path,
        flags: Sequence[str] = (),
        environment: dict[str, str] | None = None,
        capacity_bytes: int = 100 * MB,
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.layout = StoreLayout(folder / "store")
        self.token_file = folder / "token"
        if not self.token_file.exists():
            self.token_file.write_text(TOKEN + "\n")
        self.log = folder / "agent.log"
        command = [
            *(sys.executable, "-m", "splatfleet", "scene-agent", "--store", str(self.layout.root)),
            *("--catalogue", str(catalogue), "--token-file", str(self.token_file), "--listen", "127.0.0.1:0"),
            *("--node", folder.name, "--capacity-gb", repr(capacity_bytes / 1e9), *flags),
        ]
        with self.log.open("ab") as log:
            start_byte = log.tell()
            self.process = subprocess.Popen(
                command, stdout=log, stderr=log, cwd=REPOSITORY, env={**os.environ, **(environment or {})}
            )
        wait_for(lambda: b"listens on" in self.log.read_bytes()[start_byte:] or self.process.poll() is not None)
        said = self.log.read_bytes()[start_byte:].decode()
        assert "listens on" in said, said
        self.url = said.partition("listens on ")[2].split()[0]
        self.client = AgentClient(self.url, BearerTokens(self.token_file))

    def state(self, scene: str) -> str:
        return next((ask["state"] for ask in self.client.listing()["asks"] if ask["id"] == scene), "")

    def reason(self, scene: str) -> str:
        return next((ask["reason"] for ask in self.client.listing()["asks"] if ask["id"] == scene), "")

    def wait_state(self, scene: str, *states: str) -> str:
        wait_for(lambda: self.state(scene) in states, f"{scene} never became {states}")
        return self.state(scene)

    def count(self, metric: Metric, **labels: str) -> float:
        return self.client.counter(metric, **labels)

    def stored(self) -> set[str]:
        return {scene["id"] for scene in self.client.listing()["scenes"]}

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(30)
        self.client.close()

    def stop(self) -> None:
        if self.process.poll() is None:
            self.process.terminate()
            assert self.process.wait(40) == 0, self.log.read_text()
        self.client.close()


def wait_for(
    condition: Callable[[], object], what: str = "it did not happen in time", deadline_s: float = 30.0
) -> None:
    end_s = time.monotonic() + deadline_s
    while not condition():
        assert time.monotonic() < end_s, what
        time.sleep(0.02)
