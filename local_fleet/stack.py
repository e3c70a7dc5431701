"""The control plane of a local fleet as processes: an exporter a node, the extender, the gateway."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from local_fleet.child import Child, free_ports
from local_fleet.nodes import LocalNode


@dataclass(frozen=True, slots=True)
class Stack:
    """Where the parts listen."""

    gateway_url: str
    extender_url: str
    exporter_urls: dict[str, str]  # by node
    children: tuple[Child, ...]

    def dead(self) -> list[str]:
        """Parts that ended although nobody asked them to, with the end of their logs."""
        return [
            f"{child.verb} ended with {child.exit_code()}: {child.log_tail()}"
            for child in self.children
            if child.exit_code() is not None
        ]


def start_stack(
    stack: contextlib.ExitStack,
    run_folder: Path,
    nodes: Sequence[LocalNode],
    pool: str,
    renderers_file: Path,
    catalogue: Path,
) -> Stack:
    """Start every part and wait until each listens; `stack` stops them. Raises RuntimeError with the reason."""
    ports = free_ports(len(nodes) + 2)
    logs = run_folder / "logs"
    logs.mkdir()
    children: list[Child] = []
    listening: list[int] = []

    def start(verb: str, name: str, port: int, *arguments: str) -> str:
        child = Child(verb, [*arguments, "--listen", f"127.0.0.1:{port}"], logs / f"{name}.log")
        stack.callback(child.stop)
        children.append(child)
        listening.append(port)
        return f"http://127.0.0.1:{port}"

    exporters = {
        node.name: start(
            "exporter",
            f"exporter-{node.name}",
            port,
            *("--renderers-file", str(renderers_file), "--node", node.name),
            *("--scene-cache", str(node.store), "--gpus-file", str(node.gpus_file), "--window-s", "10"),
        )
        for node, port in zip(nodes, ports, strict=False)
    }
    digests = [part for name, url in exporters.items() for part in ("--node-digest", f"{name}={url}")]
    extender = start("extender", "extender", ports[-2], *digests, "--poll-s", "1")
    gateway = start(
        "gateway",
        "gateway",
        ports[-1],
        *("--renderers-file", str(renderers_file), "--catalogue", str(catalogue), "--pool", pool),
        *digests,
    )
    for child, port in zip(children, listening, strict=True):
        child.wait_listening(port)
    return Stack(gateway, extender, exporters, tuple(children))
