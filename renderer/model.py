"""The Triton model `gaussian_renderer`: tensors and parameters in, RendererPod's answer out.

Errors are raised, so that Triton counts them as failures; one request is one execution here, so none fails its
neighbours. Each carries `splatfleet/<kind>: <message>` for renderer.client to read.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import triton_python_backend_utils as triton

from renderer.client import ERROR_MARK, Kind
from renderer.pod import Answer, CannotStart, DeadlinePassed, LoadFailed, RendererPod
from renderer.pod_metrics import PodMetrics
from renderer.pod_settings import PodSettingsError, read_settings
from renderer.request import BadRequest
from renderer.scene_cache import StillLoading
from renderer.sessions import sessions_of

_WATCH_S, _FIRST_WATCH_S = 0.5, 0.05  # before the kernel was asked nothing else looks
_PR_SET_PDEATHSIG = 1  # <sys/prctl.h>
_OF_TRITON = ("sequence_id", "sequence_start", "sequence_end")  # it reads these and hands them on all the same

_KINDS: tuple[tuple[type[Exception], Kind], ...] = (
    (BadRequest, "bad_request"),
    (DeadlinePassed, "deadline"),
    (StillLoading, "unavailable"),
    (LoadFailed, "failed"),
)


class TritonPythonModel:
    """What the Python backend calls; one instance, one request an execution."""

    def initialize(self, args: dict[str, str]) -> None:
        """Load the pod's scenes; a pod that cannot is never Ready, and its log says why in one line."""
        server_pid = os.getppid()
        threading.Thread(target=_end_with_server, args=(server_pid,), name="parent-watch", daemon=True).start()
        self._sessions = sessions_of(json.loads(args["model_config"]).get("sequence_batching"))
        try:
            settings = read_settings(os.environ)
            with _ending_with_loader(server_pid):
                self._pod = RendererPod(settings, PodMetrics(triton, settings.budget_bytes))
        except (PodSettingsError, CannotStart) as error:
            line = " ".join(str(error).split())
            print(f"splatfleet: renderer cannot start: {line}", file=sys.stderr, flush=True)
            raise triton.TritonModelException(f"renderer cannot start: {line}") from None
        spent = ", ".join(f"{stage} {seconds:.2f} s" for stage, seconds in self._pod.start_up_s.items())
        print(f"splatfleet: renderer is ready ({spent}; scenes: {', '.join(settings.scenes) or 'none'})", flush=True)

    def execute(self, requests: list[Any]) -> list[Any]:
        """Answer each request; raises for a bad one."""
        return [_response(self._answer(request)) for request in requests]

    def _answer(self, request: Any) -> Answer:
        if request.is_cancelled():
            _fail("deadline", "the client cancelled the request; not rendered")
        parameters = self._parameters(request)
        view, projection = (
            triton.get_input_tensor_by_name(request, name).as_numpy() for name in ("VIEW_MATRIX", "PROJECTION_MATRIX")
        )
        try:
            answer = self._pod.answer(parameters, view, projection)
        except Exception as error:
            kind: Kind = next((kind for kind_of, kind in _KINDS if isinstance(error, kind_of)), "failed")
            if kind == "failed":
                print(f"splatfleet: {error!r}", file=sys.stderr, flush=True)
            _fail(kind, str(error) or type(error).__name__)
        if self._sessions is not None:
            answer.stats["sessions"] = len(self._sessions)
        return answer

    def _parameters(self, request: Any) -> Mapping[str, Any]:
        given: dict[str, Any] = json.loads(request.parameters() or "{}")
        for name in _OF_TRITON:
            given.pop(name, None)
        if self._sessions is None:
            return given
        flags = request.flags()
        starts, ends = (
            bool(flags & flag)
            for flag in (
                triton.TRITONSERVER_REQUEST_FLAG_SEQUENCE_START,
                triton.TRITONSERVER_REQUEST_FLAG_SEQUENCE_END,
            )
        )
        return self._sessions.parameters(request.correlation_id(), given, starts, ends, time.monotonic())


@contextlib.contextmanager
def _ending_with_loader(server_pid: int) -> Iterator[None]:
    """The kernel ends this process with the thread of Triton that loads it, for as long as that waits for us.

    Who registers or counts a metric waits for Triton's answer and holds the interpreter's lock meanwhile, for ever
    where Triton died: no thread of ours gets to look then.
    """
    _ask_for_death_signal(signal.SIGKILL)
    try:
        if os.getppid() != server_pid or not _is_triton(server_pid):
            os._exit(1)  # it died before the kernel was asked
        yield
    finally:
        _ask_for_death_signal(0)


def _ask_for_death_signal(number: int) -> None:
    """Set this thread's parent-death signal, sent when the thread ends that started this process; 0 takes it back."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, number)


def _end_with_server(server_pid: int) -> None:
    """End this process when Triton died: the stub's own watch takes a server that nobody reaped for alive.

    By looking at first. The kernel's parent-death signal, which needs nothing of this process, follows the *thread*
    that has this process for a child, and Triton starts it from one that ends when the model is loaded: the signal is
    asked for when the server's first thread has taken over. It also follows the thread that asked, so this one stays.
    """
    asked = False
    if _is_triton(server_pid):  # else it died before this stub came to look
        while os.getppid() == server_pid:
            if not asked and _is_child_of_thread(server_pid):
                _ask_for_death_signal(signal.SIGKILL)
                asked = True
                print(f"splatfleet: the kernel ends this process with Triton ({server_pid})", flush=True)
                continue  # it may have died a moment before
            time.sleep(_WATCH_S if asked else _FIRST_WATCH_S)
    os._exit(1)


def _is_child_of_thread(thread: int) -> bool:
    """Whether this process is a child of that thread; False where the kernel does not tell."""
    try:
        return str(os.getpid()) in Path(f"/proc/{thread}/task/{thread}/children").read_text().split()
    except OSError:
        return False


def _is_triton(pid: int) -> bool:
    try:
        return "triton" in Path(f"/proc/{pid}/comm").read_text()
    except OSError:
        return False


def _fail(kind: Kind, message: str) -> NoReturn:
    raise triton.TritonModelException(f"{ERROR_MARK}{kind}: {' '.join(message.split())}") from None


def _image(pixels: Any) -> Any:
    """Pixels in host memory as they are; those in device memory by DLPack, so that Triton decides about a copy."""
    if isinstance(pixels, np.ndarray):
        return triton.Tensor("RENDERED_IMAGE", pixels)
    return triton.Tensor.from_dlpack("RENDERED_IMAGE", pixels)


def _response(answer: Answer) -> Any:
    stats = json.dumps(answer.stats, separators=(",", ":")).encode()
    return triton.InferenceResponse(
        [
            _image(answer.pixels),
            triton.Tensor("ENCODED_IMAGE", np.frombuffer(answer.encoded, np.uint8)),
            triton.Tensor("STATS", np.array([stats], dtype=object)),
        ]
    )
