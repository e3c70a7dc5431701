"""The control plane of a local fleet as processes: an exporter and a scene agent a node, the extender, the gateway."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from local_fleet.child import Child, free_ports, verb_child
from local_fleet.nodes import LocalNode


@dataclass(frozen=True, slots=True)
class Stack:
    """Where the parts listen."""

    gateway_url: str
    extender_url: str
    exporter_urls: dict[str, str]  # by node
    agent_urls: dict[str, str]  # by node
    token_file: Path  # what the agents let in
    children: tuple[Child, ...]

    def dead(self) -> list[str]:
        """Parts that ended although nobody asked them to, with the end of their logs."""
        return [
            f"{child.name} ended with {child.exit_code()}: {child.log_tail()}"
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
    fetch_bytes_per_s: float = 0.0,
) -> Stack:
    """Start every part and wait until each listens; `stack` stops them. Raises RuntimeError with the reason.

    `fetch_bytes_per_s` is a node's bandwidth to the object store, shared by its agent and its pods; 0 is no cap.
    """
    ports = free_ports(2 * len(nodes) + 2)
    logs = run_folder / "logs"
    logs.mkdir()
    children: list[Child] = []
    listening: list[int] = []

    def start(verb: str, name: str, port: int, *arguments: str) -> str:
        child = verb_child(verb, [*arguments, "--listen", f"127.0.0.1:{port}"], logs / f"{name}.log")
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
    token_file = run_folder / "agent-token"
    _write_secret(token_file, secrets.token_urlsafe(32))
    agent_ports = {node.name: port for node, port in zip(nodes, ports[len(nodes) :], strict=False)}
    peers = [part for name, port in agent_ports.items() for part in ("--peer", f"{name}=http://127.0.0.1:{port}")]
    agents = {
        node.name: start(
            "scene-agent",
            f"agent-{node.name}",
            agent_ports[node.name],
            *("--store", str(node.store), "--capacity-gb", repr(node.store_capacity_bytes / 1e9)),
            *("--catalogue", str(catalogue), "--token-file", str(token_file), "--node", node.name),
            *("--fetch-mb-per-s", repr(fetch_bytes_per_s / 1e6), *peers),
        )
        for node in nodes
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
    for child in children:  # at the end all are told first, then each is waited for
        stack.callback(child.terminate)
    for child, port in zip(children, listening, strict=True):
        child.wait_listening(port)
    return Stack(gateway, extender, exporters, agents, token_file, tuple(children))


def _write_secret(path: Path, text: str) -> None:
    """A file that its owner alone may read, from its first byte on."""
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text + "\n")
