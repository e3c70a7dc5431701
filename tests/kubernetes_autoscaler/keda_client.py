"""A gRPC client that calls as KEDA 2.20 and 2.21 do: one round-robin channel, its own keys in the metadata."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import grpc

from autoscaler.keda import externalscaler_pb2 as messages
from autoscaler.keda import externalscaler_pb2_grpc as service

ROUND_ROBIN = json.dumps({"loadBalancingConfig": [{"round_robin": {}}]})


@dataclass(frozen=True)
class Metric:
    """What KEDA hands its HPA."""

    name: str  # with KEDA's index
    value: float
    active: bool


class KedaClient:
    """One ScaledObject's trigger."""

    def __init__(self, address: str, metadata: dict[str, str], credentials: Any = None, authority: str = "") -> None:
        # A connection of its own, as another process has; else gRPC shares one among all channels of this process.
        own = ("grpc.use_local_subchannel_pool", 1)
        options: list[tuple[str, Any]] = [("grpc.service_config", ROUND_ROBIN), own]
        if authority:
            options.append(("grpc.ssl_target_name_override", authority))
        self.channel = (
            grpc.insecure_channel(address, options)
            if credentials is None
            else grpc.secure_channel(address, credentials, options)
        )
        self.stub: Any = service.ExternalScalerStub(self.channel)  # type: ignore[no-untyped-call]
        keys = {"scalerAddress": address, **({"enableTLS": "true"} if credentials is not None else {})}
        self.reference = messages.ScaledObjectRef(
            name="renderer", namespace="splats", scalerMetadata={**keys, **metadata}
        )

    def close(self) -> None:
        self.channel.close()

    def spec(self) -> tuple[str, float]:
        """Name and target that go into the HPA."""
        answer = self.stub.GetMetricSpec(self.reference, timeout=5)
        [spec] = answer.metricSpecs
        target = spec.targetSizeFloat if spec.targetSizeFloat > 0 else float(spec.targetSize)
        return f"s0-{spec.metricName}", target

    def poll(self) -> Metric:
        """GetMetrics by the name without its index, then IsActive; a value counts only above zero."""
        indexed, _ = self.spec()
        request = messages.GetMetricsRequest(scaledObjectRef=self.reference, metricName=indexed.removeprefix("s0-"))
        [value] = self.stub.GetMetrics(request, timeout=5).metricValues
        number = value.metricValueFloat if value.metricValueFloat > 0 else float(value.metricValue)
        return Metric(indexed, number, self.stub.IsActive(self.reference, timeout=5).result)

    def stream_active(self) -> Iterator[bool]:
        for answer in self.stub.StreamIsActive(self.reference):
            yield answer.result
