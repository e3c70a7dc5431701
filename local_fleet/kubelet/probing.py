"""Probes of containers, on the schedule that their pod asks for."""

from __future__ import annotations

import http.client
import socket
import ssl
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass

from local_fleet.kubelet.pod_spec import HttpProbe, Probe, RunContainer


@dataclass(slots=True)
class ProbeState:
    """One probe of one container since its start; `due_s` is on the caller's clock."""

    probe: Probe
    due_s: float
    passed: int = 0
    failed: int = 0

    @classmethod
    def begin(cls, probe: Probe, started_s: float) -> ProbeState:
        return cls(probe, started_s + probe.initial_delay_seconds)

    def take(self, success: bool, now_s: float) -> bool | None:
        """Note a result; True and False once a threshold is reached, None before."""
        self.due_s = now_s + self.probe.period_seconds
        self.passed = self.passed + 1 if success else 0
        self.failed = 0 if success else self.failed + 1
        if self.passed >= max(1, self.probe.success_threshold):
            return True
        return False if self.failed >= max(1, self.probe.failure_threshold) else None


def probe_once(probe: Probe, container: RunContainer, address: str, environment: Mapping[str, str]) -> bool:
    """Run a probe once, within its timeout."""
    timeout_s = float(probe.timeout_seconds)
    if probe.http_get is not None:
        return _http(probe.http_get, (address, _port(probe.http_get.port, container)), timeout_s)
    if probe.tcp_socket is not None or probe.grpc is not None:
        target = probe.tcp_socket or probe.grpc
        assert target is not None
        return _connects(address, _port(target.port, container), timeout_s)
    if probe.exec is not None:
        return _run(probe.exec.command, environment, timeout_s)
    return True


def _port(port: int | str, container: RunContainer) -> int:
    if isinstance(port, int):
        return port
    named = [found.container_port for found in container.ports or () if found.name == port]
    return named[0] if named else int(port)


def _http(probe: HttpProbe, target: tuple[str, int], timeout_s: float) -> bool:
    connection = http.client.HTTPConnection(*target, timeout=timeout_s)
    if probe.scheme == "HTTPS":  # a kubelet verifies no certificate
        context = ssl._create_unverified_context()
        connection = http.client.HTTPSConnection(*target, timeout=timeout_s, context=context)
    try:
        connection.request("GET", probe.path)
        return 200 <= connection.getresponse().status < 400
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _connects(address: str, port: int, timeout_s: float) -> bool:
    with socket.socket() as probe:
        probe.settimeout(timeout_s)
        return probe.connect_ex((address, port)) == 0


def _run(command: list[str], environment: Mapping[str, str], timeout_s: float) -> bool:
    """A command of ours; another one cannot be there and fails."""
    if not command or command[0].rpartition("/")[2] != "splatfleet":
        return False
    try:
        done = subprocess.run(
            [sys.executable, "-m", "splatfleet", *command[1:]],
            env=dict(environment),
            capture_output=True,
            timeout=timeout_s,
            check=False,
        )
    except (subprocess.TimeoutExpired, OSError):
        return False
    return done.returncode == 0
