"""Where exporters and scene agents are: of the DaemonSet, beside renderers, and where somebody says."""

from __future__ import annotations

from typing import Any

import msgspec

from autoscaler.node_services import Addresses, addresses_of
from kube.objects import Pod


def pod(node: str, address: str, **ports: int) -> Pod:
    listed = [{"name": name.replace("_", "-"), "containerPort": port} for name, port in ports.items()]
    document: dict[str, Any] = {
        "metadata": {"name": f"pod-{address}", "namespace": "team", "uid": address},
        "spec": {"nodeName": node, "containers": [{"name": "main", "ports": listed}]},
        "status": {"podIP": address, "conditions": [{"type": "Ready", "status": "True"}]},
    }
    return msgspec.convert(document, Pod)


def test_a_renderer_speaks_for_its_node_and_has_no_scene_agent() -> None:
    beside = [pod("gpu-1", "127.0.0.1", exporter=9465, grpc=8001), pod("gpu-2", "127.0.0.2", exporter=9465)]
    found = addresses_of([], beside, Addresses())
    assert found.exporters == {"gpu-1": "http://127.0.0.1:9465", "gpu-2": "http://127.0.0.2:9465"}
    assert found.agents == {}


def test_the_daemon_set_wins_and_what_is_given_wins_over_all() -> None:
    of_node = [pod("gpu-1", "127.0.0.9", exporter=9465, scene_agent=9468)]
    beside = [pod("gpu-1", "127.0.0.1", exporter=9465)]
    found = addresses_of(of_node, beside, Addresses())
    assert found.exporters == {"gpu-1": "http://127.0.0.9:9465"}
    assert found.agents == {"gpu-1": "http://127.0.0.9:9468"}
    given = Addresses({"gpu-1": "http://here"}, {})
    assert addresses_of(of_node, beside, given).exporters == {"gpu-1": "http://here"}
