"""Commands, the verbs of `splatfleet` among them, as child processes that never outlive their parent."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from local_fleet.spawn import spawn


def free_ports(count: int) -> list[int]:
    """Ports of the loopback interface that were free a moment ago, all different."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for probe in sockets:
            probe.bind(("127.0.0.1", 0))
        return [int(probe.getsockname()[1]) for probe in sockets]
    finally:
        for probe in sockets:
            probe.close()


class Child:
    """A command in a process group of its own, its output in a log file."""

    def __init__(
        self, name: str, command: Sequence[str], log: Path, environment: Mapping[str, str] | None = None
    ) -> None:
        """`environment` is added to ours."""
        self.name = name
        self.log = log
        self._process = spawn(command, log, Path.cwd(), os.environ | dict(environment or {}))

    @property
    def pid(self) -> int:
        return self._process.pid

    def exit_code(self) -> int | None:
        return self._process.poll()

    def wait_listening(self, port: int, deadline_s: float = 60.0) -> None:
        """Wait until the port answers; raises RuntimeError with the end of the log when the process dies or is late."""
        end = time.monotonic() + deadline_s
        while time.monotonic() < end:
            if self.exit_code() is not None:
                raise RuntimeError(f"{self.name} ended with {self.exit_code()}: {self.log_tail()}")
            with socket.socket() as probe:
                probe.settimeout(0.5)
                # A free port of the ephemeral range can be dealt to the probe itself, which then connects to itself.
                if probe.connect_ex(("127.0.0.1", port)) == 0 and probe.getsockname() != probe.getpeername():
                    return
            time.sleep(0.05)
        raise RuntimeError(f"{self.name} does not listen on port {port} after {deadline_s:.0f} s: {self.log_tail()}")

    def log_tail(self, lines: int = 5) -> str:
        return " | ".join(self.log.read_text(errors="replace").strip().splitlines()[-lines:]) or "(no output)"

    def wait(self, deadline_s: float) -> int:
        return self._process.wait(deadline_s)

    def terminate(self) -> None:
        """SIGTERM, and no wait."""
        if self._process.poll() is None:
            self._process.terminate()

    def stop(self, deadline_s: float = 3.0) -> None:
        """SIGTERM, then SIGKILL after the deadline."""
        if self._process.poll() is None:
            self.terminate()
            try:
                self._process.wait(deadline_s)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()


def verb_child(verb: str, arguments: Sequence[str], log: Path, environment: Mapping[str, str] | None = None) -> Child:
    """`splatfleet <verb> …` as a child; `environment` is added to ours."""
    return Child(verb, [sys.executable, "-m", "splatfleet", verb, *arguments], log, environment)
