"""The model behind Triton's sequence batcher: slots come free by END and by silence, and a killed pod blocks nobody."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as grpc
from tritonclient.utils import InferenceServerException

from fleet import labels
from local_fleet.triton_server import SEQUENCE_REPOSITORY, TritonServer
from renderer.client import error_of, inputs_of, reply_of
from tests.triton.test_frames import PROJECTION, VIEW

SLOTS = 2
IDLE_S = 1.5


@pytest.fixture
def sequence_server(backends: Path, catalogue: Path, tmp_path: Path) -> Iterator[Any]:
    """Makes pods of two slots whose silent sequences expire after 1.5 s."""
    repository = tmp_path / "repository"
    shutil.copytree(SEQUENCE_REPOSITORY, repository, ignore=shutil.ignore_patterns("__pycache__"))
    shim = repository / labels.MODEL_NAME / "1" / "model.py"
    root = SEQUENCE_REPOSITORY.parents[1]
    shim.write_text(shim.read_text().replace("str(Path(__file__).resolve().parents[4])", repr(str(root))))
    config = repository / labels.MODEL_NAME / "config.pbtxt"
    text = config.read_text()
    config.write_text(
        text.replace("max_candidate_sequences: 64", f"max_candidate_sequences: {SLOTS}").replace(
            "max_sequence_idle_microseconds: 60000000", f"max_sequence_idle_microseconds: {int(IDLE_S * 1e6)}"
        )
    )
    assert config.read_text().count(str(SLOTS)) >= 1
    made: list[TritonServer] = []

    def make() -> TritonServer:
        environment = {
            labels.CATALOGUE_ENV: str(catalogue),
            labels.SCENE_CACHE_ENV: str(tmp_path / f"store-{len(made)}"),
            labels.RASTERIZER_ENV: "cpu",
            labels.SCENES_ENV: "knot",
            "SPLATFLEET_RENDER_THREADS": "1",
        }
        server = TritonServer(backends, tmp_path / f"pod-{len(made)}", environment, repository=repository)
        made.append(server)
        server.start()
        server.wait_ready()
        return server

    yield make
    for server in made:
        server.kill()


class Viewer:
    """One sequence."""

    def __init__(self, server: TritonServer, sequence: int) -> None:
        self._client = grpc.InferenceServerClient(server.grpc_address)
        self.sequence = sequence

    def frame(
        self, start: bool = False, end: bool = False, timeout_s: float = 20.0, **parameters: Any
    ) -> dict[str, Any]:
        """STATS of a frame; raises InferenceServerException."""
        result = self._client.infer(
            labels.MODEL_NAME,
            inputs_of(grpc, VIEW, PROJECTION),
            sequence_id=self.sequence,
            sequence_start=start,
            sequence_end=end,
            parameters=parameters,
            client_timeout=timeout_s,
        )
        return reply_of(result).stats


def test_a_session_keeps_its_parameters_and_its_end_frees_the_slot(sequence_server: Any) -> None:
    server = sequence_server()
    began_s = time.monotonic()
    for number in range(1, 13):  # six times as many as there are slots, one after the other
        viewer = Viewer(server, number)
        assert viewer.frame(start=True, scene="knot", width=40, height=24)["width"] == 40
        told = viewer.frame()
        assert (told["width"], told["height"], told["scene"], told["sessions"]) == (40, 24, "knot", 1)
        assert viewer.frame(end=True, width=16)["sessions"] == 0
    assert time.monotonic() - began_s < 12 * IDLE_S, "an ended sequence kept its slot"
    with pytest.raises(InferenceServerException, match="START"):
        viewer.frame()
    with pytest.raises(InferenceServerException, match="correlation ID"):
        Viewer(server, 0).frame(start=True)


def test_silence_frees_the_slot_and_nothing_of_the_session_stays(sequence_server: Any) -> None:
    server = sequence_server()
    silent = [Viewer(server, number) for number in (1, 2)]
    began_s = time.monotonic()
    for viewer in silent:
        viewer.frame(start=True, width=16, height=16)
    third = Viewer(server, 3)
    assert third.frame(start=True, width=16, height=16)["width"] == 16, "it waits for a slot, and gets it"
    assert time.monotonic() - began_s > 0.9 * IDLE_S, "a slot came free before its session was silent for so long"
    time.sleep(1.5 * IDLE_S)
    for viewer in silent:
        with pytest.raises(InferenceServerException, match="START"):
            viewer.frame()
    fourth = Viewer(server, 4)
    assert fourth.frame(start=True, width=16, height=16)["sessions"] == 1, "what was silent is forgotten"


def test_many_more_sessions_than_slots_all_come_to_their_end(sequence_server: Any) -> None:
    server = sequence_server()
    sizes = {number: (8 + number, 8) for number in range(1, 25)}

    def play(number: int) -> list[int]:
        viewer = Viewer(server, number)
        width, height = sizes[number]
        stats = [viewer.frame(start=True, width=width, height=height)]
        stats += [viewer.frame() for _ in range(4)]
        stats.append(viewer.frame(end=True))
        return [told["width"] for told in stats]

    with ThreadPoolExecutor(8) as viewers:
        widths = list(viewers.map(play, sizes))
    assert widths == [[8 + number] * 6 for number in sizes], "a session drew with another's parameters"
    assert Viewer(server, 99).frame(start=True)["sessions"] == 1


def test_a_killed_pod_ends_its_sessions_at_once_and_they_start_again_elsewhere(sequence_server: Any) -> None:
    first, second = sequence_server(), sequence_server()
    viewers = [Viewer(first, number) for number in (1, 2)]
    for viewer in viewers:
        viewer.frame(start=True, width=16, height=16)
    waiting: list[Exception] = []

    def wait() -> None:
        try:
            Viewer(first, 3).frame(start=True)
        except InferenceServerException as error:
            waiting.append(error)

    thread = threading.Thread(target=wait)
    thread.start()
    time.sleep(0.3)
    first.kill()
    thread.join(10)
    assert not thread.is_alive(), "a session in the backlog of a dead pod waits for ever"
    for viewer in viewers:
        with pytest.raises(InferenceServerException) as caught:
            viewer.frame(timeout_s=5)
        assert error_of(caught.value).kind == "unavailable"
    assert error_of(waiting[0]).kind == "unavailable"
    for number in (1, 2):
        moved = Viewer(second, number)
        with pytest.raises(InferenceServerException, match="START"):
            moved.frame()
        assert moved.frame(start=True, width=24, height=16)["width"] == 24
    assert np.isfinite(moved.frame(end=True)["render_s"])
