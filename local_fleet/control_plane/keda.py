"""The real KEDA as two processes beside the control plane: its operator, and its adapter for external metrics.

Built from its published module in Go's module cache, where its own go.mod and go.sum hold: no module of ours is needed.
The adapter's metrics listen on every interface, with no flag for it, so it runs only where loopback is the only one
(`make test-keda` makes such a network namespace).
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import sys
from collections.abc import Mapping
from pathlib import Path

from local_fleet.child import Child, free_ports
from local_fleet.control_plane.binaries import BinariesError, root
from local_fleet.control_plane.commands import HOST
from local_fleet.control_plane.golang import alone, find_go, new_folder, run_go, say
from local_fleet.control_plane.plane import ControlPlane

VERSION = "v2.21.0"
SUM = "h1:R6z2HZvstK4RLUMxroNACzBj74xGxt3kG59b5Xc+Xps="
MODULE = f"github.com/kedacore/keda/v2@{VERSION}"
PROGRAMS = ("operator", "adapter")
NAMESPACE = "keda"
ADAPTER = "keda-metrics-apiserver"
ADD = "make test-keda"


def folder() -> Path:
    """Where this version is built to, whether or not it was."""
    return root() / f"keda-{VERSION}"


def find() -> Path:
    """The folder with the programs and the resource definitions; raises BinariesError where one is missing."""
    missing = [name for name in PROGRAMS if not os.access(folder() / name, os.X_OK)]
    if missing:
        raise BinariesError(f"KEDA {VERSION} is not built yet; this adds it once (10 minutes on two cores): {ADD}")
    return folder()


def only_loopback() -> bool:
    """Whether nothing but this machine can reach what listens here."""
    return [name for _, name in socket.if_nameindex()] == ["lo"]


def build() -> None:
    """Build both programs where they are missing; raises BinariesError with the end of what Go said."""
    with alone(root()):
        if all((folder() / name).exists() for name in PROGRAMS):
            return
        go = find_go(root())
        source = _download(go)
        say(f"KEDA {VERSION} from source: about 10 minutes on two cores the first time")
        folder().mkdir(parents=True, exist_ok=True)
        with new_folder(folder() / "programs.new") as new:
            packages = [f"./cmd/{name}" for name in PROGRAMS]
            listed = run_go([go, "list", "-mod=readonly", "-deps", *packages], source)
            command = [go, "build", "-mod=readonly", "-trimpath", "-buildvcs=false", "-ldflags", "-s -w"]
            run_go([*command, "-o", f"{new}/", *packages], source, len(listed))
            shutil.copytree(source / "config" / "crd" / "bases", folder() / "definitions", dirs_exist_ok=True)
            for name in PROGRAMS:
                (new / name).replace(folder() / name)
        say(f"KEDA is in {folder()}")


def _download(go: str) -> Path:
    """The module's folder in Go's cache, its content as pinned here."""
    lines = run_go([go, "mod", "download", "-json", MODULE], root())
    told = json.loads("\n".join(line for line in lines if not line.startswith("go: ")))
    if told.get("Sum") != SUM:
        raise BinariesError(f"{MODULE} has the sum {told.get('Sum')}, expected {SUM}")
    return Path(told["Dir"])


class Keda:
    """KEDA in a control plane of ours, both programs as administrator; ends with `stop`."""

    def __init__(self, plane: ControlPlane, programs: Path) -> None:
        self._plane = plane
        self._programs = programs
        self._children: list[Child] = []
        self._folder = plane.folder / "keda"
        self._operator_port, self._adapter_port, self._metrics_port = free_ports(3)

    def start(self) -> Keda:
        """Install the definitions, start both programs and wait until external metrics are served."""
        plane = self._plane
        definitions = sorted((self._programs / "definitions").glob("*.yaml"))
        plane.kubectl("apply", "--server-side", *(flag for path in definitions for flag in ("-f", str(path))))
        plane.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}})
        certificates = self._certificates()
        kubeconfig = str(plane.kubeconfig)
        environment = {
            "KUBECONFIG": kubeconfig,
            "WATCH_NAMESPACE": "",
            "POD_NAMESPACE": NAMESPACE,
            "KEDA_CLUSTER_OBJECT_NAMESPACE": NAMESPACE,
        }
        self._start(
            "operator",
            environment,
            **{
                "metrics-bind-address": "0",
                "health-probe-bind-address": "0",
                "metrics-service-bind-address": f"{HOST}:{self._operator_port}",
                "cert-dir": certificates,
                "ca-dir": certificates,
            },
        )
        self._children[-1].wait_listening(self._operator_port, 60.0)
        self._start(
            "adapter",
            environment,
            **{
                "bind-address": HOST,
                "secure-port": self._adapter_port,
                "port": self._metrics_port,
                "metrics-service-address": f"{HOST}:{self._operator_port}",
                "lister-kubeconfig": kubeconfig,
                "authentication-kubeconfig": kubeconfig,
                "authorization-kubeconfig": kubeconfig,
                "client-ca-file": certificates / "ca.crt",
                "tls-cert-file": certificates / "tls.crt",
                "tls-private-key-file": certificates / "tls.key",
                "cert-dir": certificates,
            },
        )
        self._children[-1].wait_listening(self._adapter_port, 60.0)
        self._register()
        return self

    def stop(self) -> None:
        for child in reversed(self._children):
            child.stop()

    def log_tails(self) -> str:
        return "; ".join(f"{child.name}: {child.log_tail(8)}" for child in self._children)

    def _start(self, name: str, environment: Mapping[str, str], **flags: object) -> None:
        command = [str(self._programs / name), *(f"--{flag}={value}" for flag, value in flags.items())]
        self._children.append(Child(f"keda-{name}", command, self._plane.logs / f"keda-{name}.log", environment))

    def _certificates(self) -> Path:
        """What KEDA expects in one folder: the authority, and one pair for both ends."""
        self._folder.mkdir(exist_ok=True)
        authority = self._plane.access.authority
        pair = authority.issue("keda", hosts=(HOST, "localhost", f"{ADAPTER}.{NAMESPACE}.svc"))
        for source, name in ((authority.certificate, "ca.crt"), (pair.certificate, "tls.crt"), (pair.key, "tls.key")):
            shutil.copy(source, self._folder / name)
        return self._folder

    def _register(self) -> None:
        # A Service may not point at loopback by address, but by a name that means it.
        service = {"type": "ExternalName", "externalName": "localhost", "ports": [{"port": self._adapter_port}]}
        reference = {"name": ADAPTER, "namespace": NAMESPACE, "port": self._adapter_port}
        self._plane.apply(
            {
                "apiVersion": "v1",
                "kind": "Service",
                "metadata": {"name": ADAPTER, "namespace": NAMESPACE},
                "spec": service,
            },
            {
                "apiVersion": "apiregistration.k8s.io/v1",
                "kind": "APIService",
                "metadata": {"name": "v1beta1.external.metrics.k8s.io"},
                "spec": {
                    "service": reference,
                    "group": "external.metrics.k8s.io",
                    "version": "v1beta1",
                    "groupPriorityMinimum": 100,
                    "versionPriority": 100,
                    "insecureSkipTLSVerify": True,
                },
            },
        )
        self._plane.kubectl(
            "wait", "--for=condition=Available", "apiservice/v1beta1.external.metrics.k8s.io", "--timeout=50s"
        )


if __name__ == "__main__":
    try:
        build()
    except BinariesError as error:
        sys.exit(f"keda: {error}")
