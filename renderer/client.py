"""Frames through tritonclient: `RendererClient` for asyncio (the gateway), `render_once` for a single one (the probe).

tritonclient is imported at the first call, so that importing this module costs nothing.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fleet.labels import MODEL_NAME

Kind = Literal["unavailable", "bad_request", "deadline", "failed"]
Parameter: TypeAlias = str | int | float | bool

DEFAULT_TIMEOUT_S = 30.0
ERROR_MARK = "splatfleet/"  # the model writes `splatfleet/<kind>: <message>` into what it raises

# A pod that was restarted is found again so soon; gRPC's own pause grows by 1.6 times to two minutes, and a call does
# not shorten it: a pod that had been away for a minute got nothing for twenty seconds more.
RECONNECT_MS = 500
_INT32_MAX = 2**31 - 1
_CHANNEL = [
    ("grpc.max_send_message_length", _INT32_MAX),
    ("grpc.max_receive_message_length", _INT32_MAX),
    ("grpc.initial_reconnect_backoff_ms", RECONNECT_MS),
    ("grpc.max_reconnect_backoff_ms", RECONNECT_MS),
]

_MARKED = re.compile(re.escape(ERROR_MARK) + r"(unavailable|bad_request|deadline|failed): ([^\n]*)")
_NOT_REACHED = "failed to connect to all addresses"  # gRPC had no connection to send it over
_OUTPUTS = ("RENDERED_IMAGE", "ENCODED_IMAGE", "STATS")
_KIND_OF_STATUS: dict[str, Kind] = {
    "UNAVAILABLE": "unavailable",
    "NOT_FOUND": "unavailable",  # a server that shuts down has unloaded its model
    "CANCELLED": "unavailable",
    "DEADLINE_EXCEEDED": "deadline",
    "INVALID_ARGUMENT": "bad_request",
    "400": "bad_request",
    "404": "unavailable",
    "503": "unavailable",
}


class RendererError(Exception):
    """A frame that did not come: `kind` says what to do about it.

    `unavailable`: ask another pod; `bad_request`: the request is wrong everywhere; `deadline`: too late;
    `failed`: this pod could not, and says why. `begun` is False where the pod never had the frame.
    """

    def __init__(self, kind: Kind, message: str, begun: bool = True) -> None:
        self.kind = kind
        self.begun = begun
        super().__init__(message)


@dataclass(frozen=True, slots=True)
class RenderReply:
    """A frame and what the pod says of it (see docs/triton.md for the keys of `stats`)."""

    stats: dict[str, Any]
    image: NDArray[np.uint8] | bytes  # raw: [h, w, 3]; else the bytes of the jpeg, png or webp file


def inputs_of(client: ModuleType, view: ArrayLike, projection: ArrayLike) -> list[Any]:
    """The two inputs of the model; raises RendererError for what is no [4, 4] matrix."""
    made = []
    for name, values in (("VIEW_MATRIX", view), ("PROJECTION_MATRIX", projection)):
        try:
            matrix = np.ascontiguousarray(np.asarray(values, np.float32))
        except (TypeError, ValueError) as error:
            raise RendererError("bad_request", f"{name}: {error}") from error
        if matrix.shape != (4, 4):
            raise RendererError("bad_request", f"{name}: shape is {list(matrix.shape)}, expected [4, 4]")
        tensor = client.InferInput(name, [4, 4], "FP32")
        tensor.set_data_from_numpy(matrix)
        made.append(tensor)
    return made


def reply_of(result: Any) -> RenderReply:
    """Decode the tensors of an answer."""
    stats: dict[str, Any] = json.loads(result.as_numpy("STATS")[0])
    encoded = result.as_numpy("ENCODED_IMAGE")
    if encoded is not None and encoded.size:
        return RenderReply(stats, encoded.tobytes())
    return RenderReply(stats, result.as_numpy("RENDERED_IMAGE"))


def _call(error: Exception, name: str) -> Any:
    method = getattr(error, name, None)
    return method() if callable(method) else None


def error_of(error: Exception) -> RendererError:
    """Map what tritonclient, grpc or a socket raised to the closed set of RendererError."""
    text = str(_call(error, "message") or error)
    marked = _MARKED.search(text)
    if marked:
        kind: Kind = marked[1]  # type: ignore[assignment]
        return RendererError(kind, marked[2])
    status = _call(error, "status") or ""
    first = text.strip().split("\n")[0]
    if "is not healthy" in text:  # the stub died: the server still says ready and answers every request like this
        return RendererError("unavailable", first)
    if isinstance(error, OSError) or "Deadline" in text:
        return RendererError("deadline" if "Deadline" in text else "unavailable", first)
    code = str(status).rsplit(".", 1)[-1]
    begun = code != "NOT_FOUND" and not first.startswith(_NOT_REACHED)
    return RendererError(_KIND_OF_STATUS.get(code, "failed"), first or type(error).__name__, begun)


class RendererClient:
    """One renderer pod over one gRPC channel, for asyncio; every call has a deadline and raises RendererError."""

    def __init__(self, grpc_address: str, timeout_s: float = DEFAULT_TIMEOUT_S) -> None:
        self.address = grpc_address
        self._timeout_s = timeout_s
        self._client: Any = None

    async def render(
        self,
        view: ArrayLike,
        projection: ArrayLike,
        parameters: Mapping[str, Parameter] | None = None,
        timeout_s: float | None = None,
    ) -> RenderReply:
        """One frame. `parameters` are the model's request parameters (scene, width, height, format, …)."""
        import tritonclient.grpc.aio as grpc

        if self._client is None:
            self._client = grpc.InferenceServerClient(self.address, channel_args=_CHANNEL)
        inputs = inputs_of(grpc, view, projection)
        wanted = [grpc.InferRequestedOutput(name) for name in _OUTPUTS]
        try:
            result = await self._client.infer(
                MODEL_NAME,
                inputs,
                outputs=wanted,
                parameters=dict(parameters or {}),
                client_timeout=timeout_s or self._timeout_s,
            )
        except Exception as error:
            raise error_of(error) from error
        return reply_of(result)

    async def warm(self, scene: str, timeout_s: float | None = None) -> dict[str, Any]:
        """Ask the pod to load a scene; answers at once with STATS, whose `state` is loading, resident or failed."""
        return await self._act("warm", scene, timeout_s)

    async def drop(self, scene: str, timeout_s: float | None = None) -> dict[str, Any]:
        """Ask the pod to forget a scene; answers at once with STATS, whose `state` is then unknown."""
        return await self._act("drop", scene, timeout_s)

    async def _act(self, action: str, scene: str, timeout_s: float | None) -> dict[str, Any]:
        identity = np.eye(4, dtype=np.float32)
        return (await self.render(identity, identity, {"action": action, "scene": scene}, timeout_s)).stats

    async def close(self) -> None:
        """Close the channel; the client can be used again afterwards."""
        if self._client is not None:
            client, self._client = self._client, None
            await client.close()


def render_once(
    address: str,
    view: ArrayLike,
    projection: ArrayLike,
    parameters: Mapping[str, Parameter] | None = None,
    protocol: Literal["grpc", "http"] = "grpc",
    timeout_s: float = DEFAULT_TIMEOUT_S,
) -> RenderReply:
    """One frame over a connection of its own; raises RendererError."""
    if protocol == "grpc":
        import tritonclient.grpc as client

        options: dict[str, Any] = {"client_timeout": timeout_s}
        made = client.InferenceServerClient(address)
    else:
        import tritonclient.http as client

        options = {}
        made = client.InferenceServerClient(address, connection_timeout=timeout_s, network_timeout=timeout_s)
    wanted = [client.InferRequestedOutput(name) for name in _OUTPUTS]
    try:
        result = made.infer(
            MODEL_NAME,
            inputs_of(client, view, projection),
            outputs=wanted,
            parameters=dict(parameters or {}),
            **options,
        )
    except RendererError:
        raise
    except Exception as error:
        raise error_of(error) from error
    finally:
        made.close()
    return reply_of(result)
