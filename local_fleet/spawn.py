"""Child processes that never outlive this one, and what the kernel knows of processes."""

from __future__ import annotations

import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path

_POLL_S = 0.02

# The kernel kills a process with this signal when the thread that started it ends; exec keeps the setting. Done in
# a process of its own before exec, since code between fork and exec of a threaded parent may hang.
_PRELUDE = """
import ctypes, os, signal, sys
ctypes.CDLL(None).prctl(1, signal.SIGKILL)
if os.getppid() != int(sys.argv[1]):
    sys.exit("its parent is gone")
os.execv(sys.argv[2], sys.argv[2:])
"""


def spawn(command: Sequence[str], log: Path, folder: Path, environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
    """Start a command in a session of its own, output appended to `log`; it is killed when this process ends.

    The parent-death signal follows the thread that started the child, so all are started by one that lives on.
    The child is reaped the moment it ends: a Triton stub that has not read our model yet takes a zombie for alive.
    """
    global _launcher
    with _launcher_lock:
        if _launcher is None or not _launcher.is_alive():
            _launcher = threading.Thread(target=_spawn_for_ever, name="launcher", daemon=True)
            _launcher.start()
    done: Future[subprocess.Popen[bytes]] = Future()
    _orders.put((_Order(command, log, folder, environment), done))
    process = done.result()
    threading.Thread(target=process.wait, name="reaper", daemon=True).start()
    return process


@dataclass(frozen=True, slots=True)
class _Order:
    command: Sequence[str]
    log: Path
    folder: Path
    environment: Mapping[str, str]

    def carry_out(self) -> subprocess.Popen[bytes]:
        with self.log.open("ab") as sink:
            return subprocess.Popen(
                [sys.executable, "-I", "-S", "-c", _PRELUDE, str(os.getpid()), *self.command],
                stdout=sink,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                env=dict(self.environment),
                cwd=self.folder,
                start_new_session=True,
            )


_orders: queue.SimpleQueue[tuple[_Order, Future[subprocess.Popen[bytes]]]] = queue.SimpleQueue()
_launcher_lock = threading.Lock()
_launcher: threading.Thread | None = None


def _spawn_for_ever() -> None:
    while True:
        order, done = _orders.get()
        try:
            done.set_result(order.carry_out())
        except BaseException as error:
            done.set_exception(error)


def started(pid: int) -> str:
    """Start time of a process in clock ticks since boot, empty where it is gone."""
    fields = _stat(Path(f"/proc/{pid}"))
    return fields[19] if fields else ""


def _stat(process: Path) -> list[str]:
    """Fields of /proc/<pid>/stat from the state on (proc(5) numbers them from 3); empty where it is gone."""
    try:
        return (process / "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


def wait_gone(group: int, deadline_s: float = 2.0) -> None:
    """Wait until no process of a killed group runs; zombies do not, whoever should reap them."""
    end_s = time.monotonic() + deadline_s
    while time.monotonic() < end_s:
        found = (_stat(process) for process in Path("/proc").glob("[0-9]*"))
        if not any(fields and fields[0] != "Z" and fields[2] == str(group) for fields in found):
            return
        time.sleep(_POLL_S)
