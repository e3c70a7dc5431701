"""The messages of the gateway: frame requests and cameras out of JSON, frames and errors into JSON."""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping
from typing import Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from fleet.scene import SceneIdError, parse_scene_id
from renderer.camera import MAX_SIZE_PX
from renderer.splats import MAX_GAUSSIANS, MAX_SH_DEGREE

MAX_BODY_BYTES = 16_384
MAX_DEADLINE_MS = 120_000.0

Format = Literal["raw", "jpeg", "png", "webp"]
Layers = Literal["rgb", "depth", "alpha"]
Encoding = Literal["binary", "base64"]
CONTENT_TYPES: dict[str, bytes] = {
    "raw": b"application/octet-stream",
    "jpeg": b"image/jpeg",
    "png": b"image/png",
    "webp": b"image/webp",
}


class FrameRequest(msgspec.Struct, forbid_unknown_fields=True):
    """The body of `POST /v1/render`; matrices are row-major, for column vectors."""

    scene: str
    view_matrix: list[float]  # 16, world to camera
    projection_matrix: list[float]  # 16
    size: tuple[int, int]  # width, height in pixels
    format: Format = "jpeg"
    quality: int | None = None  # 1-100; the renderer's own default where absent
    background: tuple[float, float, float] | None = None  # r, g, b in 0-1
    layers: Layers | None = None
    sh_degree: int | None = None
    gaussian_budget: int | None = None  # at most so many are drawn: a sample, grown
    encoding: Encoding = "binary"  # base64: JSON around the picture, for clients that can read nothing else
    session: str | None = None
    pool: str | None = None
    deadline_ms: float | None = None
    client_time_ms: float | None = None

    def parameters(self) -> dict[str, str | int | float]:
        """The request parameters of the model."""
        width, height = self.size
        found: dict[str, str | int | float] = {
            "scene": self.scene,
            "width": width,
            "height": height,
            "format": self.format,
        }
        for name in ("quality", "layers", "sh_degree", "gaussian_budget", "client_time_ms"):
            value = getattr(self, name)
            if value is not None:
                found[name] = value
        if self.background is not None:
            found["background"] = ",".join(f"{channel:g}" for channel in self.background)
        return found

    def matrices(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """View and projection matrix, both [4,4]."""
        return (
            np.array(self.view_matrix, dtype=np.float32).reshape(4, 4),
            np.array(self.projection_matrix, dtype=np.float32).reshape(4, 4),
        )


class StreamCamera(msgspec.Struct, forbid_unknown_fields=True):
    """A message of `WS /v1/stream`; what it shares with FrameRequest means the same."""

    view_matrix: list[float]
    projection_matrix: list[float]
    size: tuple[int, int]
    id: int = 0  # comes back with its frame
    moving: bool | None = None  # True: a small frame will do; False: a whole one at once; absent: told by the pace
    format: Format = "jpeg"  # of whole frames; moving ones are JPEG
    quality: int | None = None
    background: tuple[float, float, float] | None = None
    layers: Layers | None = None
    sh_degree: int | None = None
    gaussian_budget: int | None = None
    encoding: Encoding = "binary"
    client_time_ms: float | None = None

    def request(self, scene: str) -> FrameRequest:
        """The frame that the camera asks for."""
        return FrameRequest(
            scene,
            self.view_matrix,
            self.projection_matrix,
            self.size,
            format=self.format,
            quality=self.quality,
            background=self.background,
            layers=self.layers,
            sh_degree=self.sh_degree,
            gaussian_budget=self.gaussian_budget,
            encoding=self.encoding,
        )


class Refusal(Exception):
    """A request that gets no frame: HTTP status, stable code, message for people."""

    def __init__(self, status: int, code: str, message: str, retry_after_s: int | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.retry_after_s = retry_after_s
        self.pool = ""  # empty until it is known which pool was meant

    def body(self) -> bytes:
        return msgspec.json.encode({"error": {"code": self.code, "message": self.message}})

    def message_of_stream(self) -> str:
        """The same as a message of a stream, which has no status line and no headers."""
        error: dict[str, object] = {"status": self.status, "code": self.code, "message": self.message}
        if self.retry_after_s is not None:
            error["retry_after_s"] = self.retry_after_s
        return msgspec.json.encode({"error": error}).decode()


_DECODER = msgspec.json.Decoder(FrameRequest)
_CAMERA_DECODER = msgspec.json.Decoder(StreamCamera)


def parse_frame_request(body: bytes) -> FrameRequest:
    """Decode and check a body; raises Refusal 400 that names the field, the value and the limit."""
    try:
        request = _DECODER.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise Refusal(400, "bad_request", f"body: {error}") from error
    check_scene_id(request.scene)
    _check_view(request)
    _check_range("deadline_ms", request.deadline_ms, (1, MAX_DEADLINE_MS))
    if request.session is not None and not 1 <= len(request.session) <= 128:
        raise _out_of_range("session", f"{len(request.session)} characters", "1 to 128 characters")
    return request


def parse_stream_camera(message: str | bytes) -> StreamCamera:
    """Decode and check a camera of a stream; raises Refusal 400 as `parse_frame_request` does."""
    try:
        camera = _CAMERA_DECODER.decode(message)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise Refusal(400, "bad_request", f"message: {error}") from error
    _check_view(camera)
    return camera


def check_scene_id(scene: str) -> None:
    """Raise Refusal 400 for what is no scene id."""
    try:
        parse_scene_id(scene)
    except SceneIdError as error:
        raise Refusal(400, "bad_request", f"scene: {error}") from error


def _check_view(request: FrameRequest | StreamCamera) -> None:
    for name in ("view_matrix", "projection_matrix"):
        _check_matrix(name, getattr(request, name))
    _check_range("size[0]", request.size[0], (1, MAX_SIZE_PX))
    _check_range("size[1]", request.size[1], (1, MAX_SIZE_PX))
    _check_range("quality", request.quality, (1, 100))
    _check_range("sh_degree", request.sh_degree, (0, MAX_SH_DEGREE))
    _check_range("gaussian_budget", request.gaussian_budget, (1, MAX_GAUSSIANS))
    for index, channel in enumerate(request.background or ()):
        _check_range(f"background[{index}]", channel, (0, 1))


def _check_matrix(name: str, values: list[float]) -> None:
    if len(values) != 16:
        raise _out_of_range(name, f"{len(values)} numbers", "16, row by row")
    for index, value in enumerate(values):
        if not abs(value) <= 1e9:
            raise _out_of_range(f"{name}[{index}]", f"{value:g}", "a number within ±1e9")


def _check_range(name: str, value: float | None, limits: tuple[float, float]) -> None:
    if value is not None and not (math.isfinite(value) and limits[0] <= value <= limits[1]):
        raise _out_of_range(name, f"{value:g}", f"{limits[0]:g} to {limits[1]:g}")


def _out_of_range(name: str, value: str, valid: str) -> Refusal:
    return Refusal(400, "bad_request", f"{name} is {value}, expected {valid}")


def compact(stats: Mapping[str, object]) -> bytes:
    """STATS as one line for a header; the characters that a header cannot carry are escaped."""
    return msgspec.json.encode(stats).decode().encode("ascii", "backslashreplace")


def with_base64(fields: Mapping[str, object], image: bytes) -> bytes:
    """A frame as one JSON object."""
    return msgspec.json.encode({**fields, "image": base64.b64encode(image).decode()})


def framed(fields: Mapping[str, object], image: bytes) -> bytes:
    """A frame as one binary message: length of the JSON (4 bytes, big-endian), the JSON, the picture."""
    head = msgspec.json.encode(fields)
    return b"".join((len(head).to_bytes(4, "big"), head, image))
