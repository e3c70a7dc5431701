"""A pod at the wire: a real gRPC server of the KServe protocol and a real metrics port, with faults on demand."""

from __future__ import annotations

import asyncio
import json
import socket
from typing import Any

import grpc
from tritonclient.grpc import service_pb2, service_pb2_grpc

PIXELS = b"\xff\xd8 not quite a jpeg \xff\xd9"


class FakePod(service_pb2_grpc.GRPCInferenceServiceServicer):
    """Renders one request at a time in `service_s`; loads a scene of `known` in `load_s`."""

    def __init__(self, uid: str, known: dict[str, int], resident: tuple[str, ...] = ()) -> None:
        self.uid = uid
        self.known = known
        self.resident = {scene: known[scene] for scene in resident}
        self.loading: dict[str, asyncio.TimerHandle] = {}
        self.service_s = 0.005
        self.load_s = 0.2
        self.budget_bytes = 1000
        self.fails_to_load: set[str] = set()
        self.render_error: tuple[Any, str] | None = None
        self.rendered: list[dict[str, Any]] = []
        self.warmed: list[str] = []
        self.now_rendering = 0
        self.picture = PIXELS
        self._one = asyncio.Lock()
        self._server: grpc.aio.Server | None = None
        self._metrics: asyncio.Server | None = None
        self.grpc_port = 0
        self.metrics_port = 0

    async def start(self) -> FakePod:
        self._server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
        service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(self, self._server)
        self.grpc_port = self._server.add_insecure_port(f"127.0.0.1:{self.grpc_port}")
        await self._server.start()
        if self._metrics is None:
            self._metrics = await asyncio.start_server(self._answer_metrics, "127.0.0.1", 0)
            self.metrics_port = self._metrics.sockets[0].getsockname()[1]
        return self

    async def die(self) -> None:
        """Drop every connection at once, as SIGKILL does."""
        if self._server is not None:
            server, self._server = self._server, None
            await server.stop(None)

    async def stop(self) -> None:
        await self.die()
        if self._metrics is not None:
            self._metrics.close()

    def entry(self, **fields: Any) -> dict[str, Any]:
        """Its line in the renderers file."""
        return {
            "uid": self.uid,
            "pool": "renderer",
            "node": f"node-of-{self.uid}",
            "grpc_address": f"127.0.0.1:{self.grpc_port}",
            "http_address": "127.0.0.1:1",
            "metrics_address": f"127.0.0.1:{self.metrics_port}",
            "ready": True,
            "budget_bytes": self.budget_bytes,
        } | fields

    async def ModelInfer(self, request: Any, context: Any) -> Any:
        parameters = {
            name: getattr(value, value.WhichOneof("parameter_choice")) for name, value in request.parameters.items()
        }
        if parameters.get("action") == "warm":
            return self._answer(self._warm(parameters["scene"]))
        async with self._one:
            self.now_rendering += 1
            await asyncio.sleep(self.service_s)
            self.now_rendering -= 1
        if self.render_error is not None:
            await context.abort(*self.render_error)
        cache = "hit" if parameters["scene"] in self.resident else "load"
        self.rendered.append(parameters)
        return self._answer({"scene": parameters["scene"], "cache": cache, "service_s": self.service_s}, self.picture)

    def _warm(self, scene: str) -> dict[str, Any]:
        self.warmed.append(scene)
        if scene not in self.known:
            state = "unknown"
        elif scene in self.fails_to_load:
            return {"scene": scene, "state": "failed", "message": "header is a lie"}
        elif scene in self.resident:
            state = "resident"
        else:
            state = "loading"
            if scene not in self.loading:
                self.loading[scene] = asyncio.get_running_loop().call_later(self.load_s, self._loaded, scene)
        return {"scene": scene, "state": state}

    def _loaded(self, scene: str) -> None:
        del self.loading[scene]
        self.resident[scene] = self.known[scene]

    @staticmethod
    def _answer(stats: dict[str, Any], image: bytes = b"") -> Any:
        answer = service_pb2.ModelInferResponse(model_name="gaussian_renderer")
        text = json.dumps(stats).encode()
        for name, kind, raw, shape in (
            ("ENCODED_IMAGE", "UINT8", image, len(image)),
            ("STATS", "BYTES", len(text).to_bytes(4, "little") + text, 1),
        ):
            answer.outputs.add(name=name, datatype=kind, shape=[shape])
            answer.raw_output_contents.append(raw)
        return answer

    async def _answer_metrics(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        lines = [f'splatfleet_renderer_scene_resident_bytes{{scene="{s}"}} {b}' for s, b in self.resident.items()]
        lines.append(f"splatfleet_renderer_budget_bytes {self.budget_bytes}")
        body = ("\n".join(lines) + "\n").encode()
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\nconnection: close\r\n\r\n%s" % (len(body), body))
        await writer.drain()
        writer.close()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
