"""Where the programs of the control plane lie: etcd, kube-apiserver, kube-controller-manager, kube-scheduler, kubectl.

A folder named by `KUBEBUILDER_ASSETS` (the convention of envtest) is taken as it is. Otherwise they lie in
`~/.cache/splatfleet/control-plane/<hash>/`, where `make control-plane` builds them once from `module/`; the hash is
that of the module's three files, so that another version gets a folder of its own. helm lies beside that folder, in
`~/.cache/splatfleet/control-plane/helm-<version>/`.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

MODULE = Path(__file__).resolve().parent / "module"
PROGRAMS = ("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubectl")
HELM_VERSION = "v4.3.1"
ASSETS_ENV = "KUBEBUILDER_ASSETS"
ADD = "make control-plane"


class BinariesError(RuntimeError):
    """No control plane can be started here; the text says what is missing and the command that adds it."""


@dataclass(frozen=True, slots=True)
class Binaries:
    """A folder that holds every program."""

    folder: Path

    def program(self, name: str) -> Path:
        return self.folder / name


def find() -> Binaries:
    """The programs of `KUBEBUILDER_ASSETS` or of the cache; raises BinariesError where one is missing."""
    assets = os.environ.get(ASSETS_ENV, "")
    folder = Path(assets) if assets else cache_folder()
    missing = [name for name in PROGRAMS if not os.access(folder / name, os.X_OK)]
    if missing and assets:
        raise BinariesError(f"{ASSETS_ENV}={assets} lacks {', '.join(missing)}: unset it and run: {ADD}")
    if missing:
        raise BinariesError(f"the Kubernetes control plane is not built yet; this adds it once: {ADD}")
    return Binaries(folder)


def find_helm() -> Path:
    """helm; raises BinariesError where it is missing."""
    helm = helm_folder() / "helm"
    if not os.access(helm, os.X_OK):
        raise BinariesError(f"helm {HELM_VERSION} is not built yet; this adds it once: {ADD}")
    return helm


def helm_folder() -> Path:
    """Where this version of helm is built to, whether or not it was."""
    return root() / f"helm-{HELM_VERSION}"


def cache_folder() -> Path:
    """Where this version of the module is built to, whether or not it was."""
    digest = hashlib.sha256()
    for name in ("go.mod", "go.sum", "main.go"):
        digest.update((MODULE / name).read_bytes())
    return root() / digest.hexdigest()[:16]


def root() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "splatfleet" / "control-plane"
