"""A container as a process of this machine: a real Triton, or a verb of `splatfleet`."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from fleet.labels import TRITON_GRPC_PORT, TRITON_HTTP_PORT, TRITON_METRICS_PORT
from local_fleet.kubelet.container_plan import ContainerPlan
from local_fleet.spawn import spawn, wait_gone
from local_fleet.triton_server import Ports, TritonServer


class Process(Protocol):
    """What a kubelet does with a container once it runs."""

    @property
    def pid(self) -> int: ...

    def exit_code(self) -> int | None: ...

    def reason(self) -> str: ...

    def terminate(self) -> None: ...

    def kill(self) -> None: ...


class VerbProcess:
    """`splatfleet <verb> …` in a process group of its own."""

    def __init__(self, plan: ContainerPlan, folder: Path) -> None:
        self._log = folder / f"{plan.name}.log"
        command = [sys.executable, "-m", "splatfleet", *plan.arguments]
        # The current folder is where this process finds its modules; the child must find the same.
        environment = {**os.environ, **plan.environment}
        self._process: subprocess.Popen[bytes] = spawn(command, self._log, Path.cwd(), environment)

    @property
    def pid(self) -> int:
        return self._process.pid

    def exit_code(self) -> int | None:
        return self._process.poll()

    def reason(self) -> str:
        """The end of its log."""
        lines = self._log.read_text(errors="replace").strip().splitlines() if self._log.exists() else []
        return " | ".join(lines[-3:])[-500:]

    def terminate(self) -> None:
        if self._process.poll() is None:
            self._process.terminate()

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        wait_gone(self._process.pid)


Start = Callable[[ContainerPlan, str, Path], Process]


def starter(backends: Path) -> Start:
    """How containers are started; `backends` as `build_backends` made it."""

    def start(plan: ContainerPlan, pod_ip: str, folder: Path) -> Process:
        folder.mkdir(parents=True, exist_ok=True)
        if plan.program == "splatfleet":
            return VerbProcess(plan, folder)
        ports = Ports(TRITON_HTTP_PORT, TRITON_GRPC_PORT, TRITON_METRICS_PORT, pod_ip)
        server = TritonServer(backends, folder, plan.environment, ports)
        server.start()
        return server

    return start
