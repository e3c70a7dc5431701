"""One Triton process: started on free ports, watched, ended without a trace. Nothing else starts a Triton."""

from __future__ import annotations

import contextlib
import http.client
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import renderer
from fleet.labels import MODEL_NAME
from local_fleet.shared_memory import new_prefix, remove_regions, sweep_dead_regions
from local_fleet.spawn import spawn, wait_gone
from local_fleet.triton_files import TritonUnavailable, build_backends, library_path, server_binary

__all__ = ["Ports", "TritonFailed", "TritonServer", "TritonUnavailable", "build_backends", "free_ports"]

MODEL_REPOSITORY = Path(renderer.__file__).parent / "model_repository"
SEQUENCE_REPOSITORY = MODEL_REPOSITORY.parent / "sequence_repository"  # the same model behind the sequence batcher
HOST = "127.0.0.1"

_EXIT_TIMEOUT_S = 20  # Triton's own limit; a busy machine takes some of it, a server that hangs takes all
_PORT_TRIES = 4
_POLL_S = 0.02
_REASON = re.compile(r"(?:splatfleet: (?=renderer cannot start)|Failed to initialize Python stub: )(.*)")
_COLLISION = re.compile(r"failed to start \w+ service|Address already in use|Socket .* already in use", re.IGNORECASE)
_ERROR_LINE = re.compile(r"[EF]\d{4} |error: |terminate called")
_RECENT_PORTS = 512


class TritonFailed(Exception):
    """A Triton that did not start or died; one line that says why and where its log is."""


@dataclass(frozen=True, slots=True)
class Ports:
    """Ports on one address, which is this machine's own."""

    http: int
    grpc: int
    metrics: int
    host: str = HOST


class TritonServer:
    """One renderer pod as a child process; it dies with this process, however this process ends."""

    def __init__(
        self,
        backends: Path,
        folder: Path,
        environment: Mapping[str, str],
        ports: Ports | None = None,
        repository: Path = MODEL_REPOSITORY,
        flags: Mapping[str, str] | None = None,
    ) -> None:
        """`backends` as build_backends made it; the log goes to `folder`, which is the process's current folder, too.

        `environment` is added to our own; paths in it must be absolute. Without `ports` free ones are taken,
        and others tried where they are lost to somebody else. `repository` holds the model's configuration:
        MODEL_REPOSITORY (every frame for itself) or SEQUENCE_REPOSITORY. `flags` of the server win over our own.
        """
        self.folder = folder.resolve()
        self.log = self.folder / "triton.log"
        self._backends = backends.resolve()
        self._repository = repository.resolve()
        self._environment = dict(environment)
        self._flags = dict(flags or {})
        self._fixed_ports = ports is not None
        self._ports = ports or free_ports()
        self._process: subprocess.Popen[bytes] | None = None
        self._shm_prefix = new_prefix()

    @property
    def http_address(self) -> str:
        return f"{self._ports.host}:{self._ports.http}"

    @property
    def grpc_address(self) -> str:
        return f"{self._ports.host}:{self._ports.grpc}"

    @property
    def metrics_address(self) -> str:
        return f"{self._ports.host}:{self._ports.metrics}"

    @property
    def pid(self) -> int:
        """Process id of the server; raises TritonFailed before `start`."""
        if self._process is None:
            raise TritonFailed("Triton was not started")
        return self._process.pid

    def start(self) -> None:
        """Start the process and return at once. Addresses are final when `wait_ready` has returned."""
        self.folder.mkdir(parents=True, exist_ok=True)
        sweep_dead_regions()
        environment = {**os.environ, **self._environment, **_paths(self._environment)}
        # The stub has the current folder first on its module path: it must be one that holds no modules.
        self._process = spawn(self._command(), self.log, self.folder, environment)

    def _command(self) -> list[str]:
        ports = self._ports
        flags = {
            "model-repository": self._repository,
            "backend-directory": self._backends,
            "http-address": ports.host,
            "grpc-address": ports.host,
            "metrics-address": ports.host,
            "http-port": ports.http,
            "grpc-port": ports.grpc,
            "metrics-port": ports.metrics,
            "allow-gpu-metrics": "false",
            "pinned-memory-pool-byte-size": 0,
            "exit-timeout-secs": _EXIT_TIMEOUT_S,
            # A name of our own, so that what a crash leaves in /dev/shm can be told from others' regions.
            "backend-config": f"python,shm-region-prefix-name={self._shm_prefix}",
            **self._flags,
        }
        return [
            str(server_binary()),
            "--disable-auto-complete-config",
            *(f"--{name}={value}" for name, value in flags.items()),
        ]

    def wait_ready(self, deadline_s: float = 60.0) -> None:
        """Wait until the model answers its readiness; raises TritonFailed, with nothing left running."""
        end_s = time.monotonic() + deadline_s
        for tries_left in reversed(range(_PORT_TRIES)):
            try:
                self._wait_ready(end_s)
                return
            except TritonFailed:
                lost_port = _COLLISION.search(self._log_text()) and not self._fixed_ports
                self.stop(0.0)
                if not lost_port or not tries_left:
                    raise
            self.log.unlink(missing_ok=True)
            self._ports = free_ports()
            self.start()

    def _wait_ready(self, end_s: float) -> None:
        while time.monotonic() < end_s:
            if self.ready and _listens(self._ports):  # HTTP answers a moment before the metrics do
                return
            text = self._log_text()
            # The log tells seconds before a failed server has taken itself down.
            if self.exit_code() is not None or _REASON.search(text) or _COLLISION.search(text):
                raise TritonFailed(f"Triton cannot start: {self.reason()} (log: {self.log})")
            time.sleep(_POLL_S)
        raise TritonFailed(f"Triton was not ready in time: {self.reason()} (log: {self.log})")

    @property
    def ready(self) -> bool:
        """Whether Triton says that the model is ready; a dead stub still does (`splatfleet probe` tells)."""
        if self.exit_code() is not None:
            return False
        connection = http.client.HTTPConnection(self._ports.host, self._ports.http, timeout=2.0)
        try:
            connection.request("GET", f"/v2/models/{MODEL_NAME}/ready")
            return connection.getresponse().status == 200
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    def exit_code(self) -> int | None:
        """None while it runs; negative is the signal that ended it."""
        return self._process.poll() if self._process is not None else None

    def reason(self) -> str:
        """Why it ended or did not start: the signal that killed it, else the line of the log that says it best."""
        code = self.exit_code()
        if code is not None and code < 0:
            return f"killed by {signal.Signals(-code).name}"
        text = self._log_text()
        own = _REASON.search(text)
        if own:
            return own[1].strip()
        bad = [line for line in text.splitlines() if _COLLISION.search(line) or _ERROR_LINE.match(line)]
        return " ".join((bad or text.splitlines() or ["no output"])[-1].split())[:500]

    def _log_text(self) -> str:
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def stop(self, deadline_s: float = _EXIT_TIMEOUT_S + 5.0) -> None:
        """SIGTERM, then SIGKILL for the whole process group after the deadline; removes its regions in /dev/shm."""
        process = self._process
        if process is None:
            return
        if process.poll() is None and deadline_s > 0:
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(deadline_s)
        self.kill()

    def terminate(self) -> None:
        """SIGTERM, and no wait."""
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()

    def kill(self) -> None:
        """SIGKILL at once, stub included; nothing is left."""
        process = self._process
        if process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        wait_gone(process.pid)
        remove_regions(self._shm_prefix)

    def __enter__(self) -> TritonServer:
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()


def _paths(environment: Mapping[str, str]) -> dict[str, str]:
    """What makes the stub's Python this one: it takes the `python3` first on PATH (and ignores PYTHONPATH)."""
    given = {**os.environ, **environment}
    return {
        "LD_LIBRARY_PATH": library_path(),
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), given.get("PATH", os.defpath)]),
    }


_ports_lock = threading.Lock()
_recent_ports: list[int] = []


def free_ports() -> Ports:
    """Three ports that were free a moment ago and were not handed out lately."""
    with _ports_lock, contextlib.ExitStack() as stack:
        found: list[int] = []
        while len(found) < 3:
            probe = stack.enter_context(socket.socket())
            probe.bind((HOST, 0))
            port = int(probe.getsockname()[1])
            if port not in _recent_ports:
                found.append(port)
        _recent_ports.extend(found)
        del _recent_ports[:-_RECENT_PORTS]
        return Ports(found[0], found[1], found[2])


def _listens(ports: Ports) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1.0)
        return probe.connect_ex((ports.host, ports.metrics)) == 0
