"""`make control-plane`: build what is missing of the control plane, once, with progress on the terminal."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable
from pathlib import Path

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
from local_fleet.control_plane.golang import alone, find_go, new_folder, run_go, say


def build() -> None:
    """Build the programs and helm where they are missing; raises BinariesError with the end of what Go said."""
    folder = cache_folder()
    with alone(folder.parent):
        if not _is_there(find):
            folder.mkdir(parents=True, exist_ok=True)
            go = find_go(folder.parent)
            say("Kubernetes control plane from source: about 6 minutes on two cores the first time")
            _build_programs(go, folder)
        if not _is_there(find_helm):
            say(f"helm {HELM_VERSION}")
            _build_helm(find_go(folder.parent), helm_folder())
    say(f"control plane is in {os.environ.get(ASSETS_ENV) or folder}")


def _build_programs(go: str, folder: Path) -> None:
    with new_folder(folder / "programs.new") as new:
        listed = run_go([go, "list", "-mod=readonly", "-deps", "."], MODULE)
        command = [go, "build", "-mod=readonly", "-trimpath", "-buildvcs=false", "-ldflags", _stamps()]
        run_go([*command, "-o", str(new / "control-plane"), "."], MODULE, len(listed))
        (new / "control-plane").replace(folder / "control-plane")
    for name in PROGRAMS:
        link = folder / name
        link.unlink(missing_ok=True)
        link.symlink_to("control-plane")


def _build_helm(go: str, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    # Renamed when whole: a build that was cut off leaves nothing that looks like a program.
    with new_folder(folder / "helm.new") as new:
        run_go([go, "install", f"helm.sh/helm/v4/cmd/helm@{HELM_VERSION}"], MODULE, environment={"GOBIN": str(new)})
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


def _is_there(look: Callable[[], object]) -> bool:
    try:
        look()
    except BinariesError:
        return False
    return True


if __name__ == "__main__":
    try:
        build()
    except BinariesError as error:
        sys.exit(f"control-plane: {error}")
