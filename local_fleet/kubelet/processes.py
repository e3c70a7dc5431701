"""A container as a process of this machine: a real Triton or kube-scheduler, a verb of `splatfleet`, a script."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from fleet.labels import TRITON_GRPC_PORT, TRITON_HTTP_PORT, TRITON_METRICS_PORT
from local_fleet.control_plane.binaries import find
from local_fleet.kubelet.container_plan import KUBECONFIG, ContainerPlan
from local_fleet.spawn import spawn, wait_gone
from local_fleet.triton_server import MODEL_REPOSITORY, SEQUENCE_REPOSITORY, Ports, TritonServer


class Process(Protocol):
    """What a kubelet does with a container once it runs."""

    @property
    def pid(self) -> int: ...

    def exit_code(self) -> int | None: ...

    def reason(self) -> str: ...

    def terminate(self) -> None: ...

    def kill(self) -> None: ...


class PlainProcess:
    """A command in a process group of its own."""

    def __init__(self, command: Sequence[str], plan: ContainerPlan, folder: Path) -> None:
        self._log = folder / f"{plan.name}.log"
        # What this process may do is not what a pod may do.
        inherited = {name: value for name, value in os.environ.items() if name != KUBECONFIG}
        # The current folder is where this process finds its modules; the child must find the same.
        environment = {**inherited, **plan.environment}
        self._process: subprocess.Popen[bytes] = spawn([*command, *plan.arguments], self._log, Path.cwd(), environment)

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
        match plan.program:
            case "splatfleet":
                return PlainProcess([sys.executable, "-m", "splatfleet"], plan, folder)
            case "python":
                return PlainProcess([sys.executable], plan, folder)
            case "kube-scheduler":
                return PlainProcess([str(find().program("kube-scheduler"))], plan, folder)
        ports = Ports(TRITON_HTTP_PORT, TRITON_GRPC_PORT, TRITON_METRICS_PORT, pod_ip)
        flags = dict(word.removeprefix("--").split("=", 1) for word in plan.arguments if "=" in word)
        repository = _repository(flags.pop("model-repository", ""))
        server = TritonServer(backends, folder, plan.environment, ports, repository, flags)
        server.start()
        return server

    return start


def _repository(path: str) -> Path:
    """The repository of models that lies at this path of the renderer's image; without one it is the usual one."""
    known = {found.name: found for found in (MODEL_REPOSITORY, SEQUENCE_REPOSITORY)}
    return known.get(Path(path).name, MODEL_REPOSITORY)
