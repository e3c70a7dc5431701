"""etcd, kube-apiserver, kube-controller-manager and kube-scheduler as processes of this machine, up in seconds."""

from __future__ import annotations

import http.client
import json
import os
import ssl
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from http import HTTPStatus
from pathlib import Path
from typing import Any

from local_fleet.child import Child, free_ports
from local_fleet.control_plane import commands
from local_fleet.control_plane.access import ADMINISTRATORS, Access
from local_fleet.control_plane.binaries import Binaries
from local_fleet.control_plane.certificates import Authority, signing_key
from local_fleet.control_plane.commands import HOST, Files, Ports

API_SERVER_NAMES = (HOST, "localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc", "10.0.0.1")
DEFAULT_SCHEDULER = "default-scheduler"
READY_WITHIN_S = 120.0  # 3 s alone; a machine that is busy with other work took more than a minute
_POLL_S = 0.05
_END_WITHIN_S = 5.0
FIELD_MANAGER = "splatfleet-control-plane"


class ControlPlaneError(RuntimeError):
    """A part did not start, or died; the text ends with the last lines of its log."""


class ControlPlane:
    """A cluster without nodes, RBAC on; everything is in `folder`, everything listens on loopback, nothing outlives us.

    `flags` are added to a program's own and win over them, for example
    `{"kube-controller-manager": ["--horizontal-pod-autoscaler-sync-period=1s"]}`.
    """

    def __init__(self, binaries: Binaries, folder: Path, flags: Mapping[str, Sequence[str]] | None = None) -> None:
        self.binaries = binaries
        self.folder = folder
        self._flags = dict(flags or {})
        self._children: dict[str, Child] = {}
        self._starts: dict[str, list[str]] = {}
        self._kinds: dict[tuple[str, str], tuple[str, bool]] = {}  # plural and whether it lies in a namespace
        self._ports = Ports(*free_ports(5))
        self.logs = folder / "logs"
        self.logs.mkdir(parents=True, exist_ok=True)
        self._files = self._make_files()
        self.server = f"https://{HOST}:{self._ports.apiserver}"
        self.access = Access(folder / "users", self._authority, self.server)
        self.kubeconfig = self.access.user("admin", (ADMINISTRATORS,))
        self._administrator = self._authority.issue("administrator", (ADMINISTRATORS,))
        self._tls = self._administrator_tls()

    def start(self) -> ControlPlane:
        """Start everything and wait until pods can be created and scheduled; raises ControlPlaneError."""
        try:
            self.start_program("etcd", commands.etcd(self._ports, self.folder / "etcd"))
            self.start_program("kube-apiserver", commands.apiserver(self._ports, self._files))
            self.wait_ready()
            user = self.access.user("system:kube-controller-manager")
            self.start_program("kube-controller-manager", commands.controllers(self._ports, self._files, user))
            self.start_scheduler()
            self._until(lambda: self.exists("/api/v1/namespaces/default/serviceaccounts/default"), "service accounts")
        except BaseException:
            self.stop()
            raise
        return self

    def stop(self) -> None:
        """End everything, the API server before etcd: one that lost its etcd takes minutes to end by itself."""
        for name, child in self._children.items():
            if name != "etcd":
                child.terminate()
        for name in reversed(list(self._children)):
            self.stop_program(name)

    def __enter__(self) -> ControlPlane:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start_scheduler(
        self, configuration: Mapping[str, Any] | None = None, name: str = "kube-scheduler", port: int | None = None
    ) -> Child:
        """Start a kube-scheduler, in the place of the one of this name; `configuration` lacks only how to connect.

        Another `name` runs beside the default one (its profiles must have other scheduler names), on a port of its own.
        """
        self.stop_program(name)
        user = self.access.user("system:kube-scheduler")
        whole = {
            "apiVersion": "kubescheduler.config.k8s.io/v1",
            "kind": "KubeSchedulerConfiguration",
            **(configuration or {}),
            "clientConnection": {"kubeconfig": str(user), "qps": 5000, "burst": 10000},
            "leaderElection": {"leaderElect": False},
        }
        path = self.folder / f"{name}.yaml"
        path.write_text(json.dumps(whole, indent=1))
        of_default = name == "kube-scheduler"
        port = port or (self._ports.scheduler if of_default else free_ports(1)[0])
        child = self.start_program(name, commands.scheduler(port, user, path), "kube-scheduler")
        self._until(lambda: self._serves_metrics(port), name)  # the last thing that a scheduler is ready for
        return child

    def start_program(self, name: str, arguments: Sequence[str], program: str = "") -> Child:
        """Start one program; `name` is that of its log, and of its flags."""
        program = program or name
        command = [str(self.binaries.program(program)), *arguments, *self._flags.get(name, ())]
        self._starts[name] = command
        self._children[name] = child = Child(name, command, self.logs / f"{name}.log")
        return child

    def restart_program(self, name: str, *more_flags: str) -> None:
        """Start a program again as it was started last and with more flags, whether it was stopped or killed."""
        self.stop_program(name)
        self._starts[name] = [*self._starts[name], *more_flags]
        self._children[name] = Child(name, self._starts[name], self.logs / f"{name}.log")

    def stop_program(self, name: str) -> None:
        """End one program; one that does not run is no error."""
        if name in self._children:
            self._children.pop(name).stop(_END_WITHIN_S)

    def pid(self, name: str) -> int:
        """The process of a running program, for faults."""
        return self._children[name].pid

    def wait_ready(self) -> None:
        """Wait until the API server says that it is; raises ControlPlaneError."""
        self._until(lambda: self._answers("/readyz"), "kube-apiserver")

    def request(self, method: str, path: str, body: Any = None, content: str = "application/json") -> Any:
        """One request as administrator, JSON in and out; raises OSError, with Kubernetes' words where it said no."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"{self.server}{path}", data, {"Content-Type": content}, method=method)
        try:
            with urllib.request.urlopen(request, timeout=10.0, context=self._tls) as reply:
                return json.load(reply)
        except urllib.error.HTTPError as error:
            said = error.read().decode(errors="replace")
            with suppress(ValueError):
                said = json.loads(said).get("message", said)
            error.msg = f"{error.msg}: {said[:500]}"
            raise
        except http.client.HTTPException as error:  # it died while it answered
            raise ConnectionAbortedError(f"{method} {path}: {error!r}") from error

    def metrics(self, port: int, deadline_s: float = 10.0) -> str:
        """What a scheduler or the controllers say under /metrics, as text; raises OSError."""
        context = ssl._create_unverified_context()  # they serve with a certificate that they signed themselves
        context.load_cert_chain(self._administrator.certificate, self._administrator.key)
        with urllib.request.urlopen(f"https://{HOST}:{port}/metrics", timeout=deadline_s, context=context) as reply:
            return str(reply.read().decode())

    def exists(self, path: str) -> bool:
        """Whether the API server answers and has it."""
        try:
            self.request("GET", path)
        except OSError:
            return False
        return True

    def kubectl(self, *arguments: str, stdin: str = "", kubeconfig: Path | None = None) -> str:
        """Run kubectl (as administrator unless told otherwise) and answer what it printed; raises ControlPlaneError."""
        command = [str(self.binaries.program("kubectl")), "--kubeconfig", str(kubeconfig or self.kubeconfig)]
        done = subprocess.run(
            [*command, *arguments],
            input=stdin,
            capture_output=True,
            text=True,
            timeout=60.0,
            check=False,
            env=os.environ | {"HOME": str(self.folder)},  # its cache of API descriptions is not the user's
        )
        if done.returncode != 0:
            raise ControlPlaneError(f"kubectl {' '.join(arguments)}: {done.stderr.strip()}")
        return done.stdout

    def apply(self, *objects: Mapping[str, Any]) -> None:
        """Make these objects so, as `kubectl apply` would, without the second that each start of kubectl takes.

        Raises ControlPlaneError with the server's words.
        """
        for item in objects:
            try:
                self._apply(item)
            except urllib.error.HTTPError as error:
                raise ControlPlaneError(f"{item['kind']} {item['metadata']['name']}: {error.msg}") from error

    def _apply(self, item: Mapping[str, Any]) -> None:
        path, own = self._collection(item), f"fieldManager={FIELD_MANAGER}&fieldValidation=Strict"
        try:  # a creation says what is wrong in the words that users of kubectl know
            self.request("POST", f"{path}?dryRun=All&{own}", item)
        except urllib.error.HTTPError as error:
            if error.code != HTTPStatus.CONFLICT:  # it is there already
                raise
        name, content = item["metadata"]["name"], "application/apply-patch+yaml"
        self.request("PATCH", f"{path}/{name}?force=true&{own}", item, content)

    def _collection(self, item: Mapping[str, Any]) -> str:
        """Where objects of this kind lie; raises HTTPError where the server has no such group."""
        version, kind = item["apiVersion"], item["kind"]
        root = f"/apis/{version}" if "/" in version else f"/api/{version}"
        if (version, kind) not in self._kinds:
            for found in self.request("GET", root)["resources"]:
                if "/" not in found["name"]:
                    self._kinds[version, found["kind"]] = (found["name"], found["namespaced"])
        if (version, kind) not in self._kinds:
            raise ControlPlaneError(f"the API server has no kind {kind} in {version}")
        plural, namespaced = self._kinds[version, kind]
        namespace = f"/namespaces/{item['metadata'].get('namespace', 'default')}" if namespaced else ""
        return f"{root}{namespace}/{plural}"

    def check(self) -> None:
        """Raise ControlPlaneError when a program has ended by itself."""
        for name, child in self._children.items():
            if child.exit_code() is not None:
                raise ControlPlaneError(f"{name} ended with {child.exit_code()}: {child.log_tail()}")

    def _make_files(self) -> Files:
        certificates = self.folder / "certificates"
        self._authority = Authority(certificates, "authority")
        front = Authority(certificates, "front-proxy-authority")
        return Files(
            self._authority.certificate,
            self._authority.issue("kube-apiserver", hosts=API_SERVER_NAMES),
            signing_key(certificates),
            front.certificate,
            front.issue("front-proxy-client"),
        )

    def _administrator_tls(self) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=str(self._authority.certificate))
        context.load_cert_chain(self._administrator.certificate, self._administrator.key)
        return context

    def _answers(self, path: str) -> bool:
        try:
            with urllib.request.urlopen(f"{self.server}{path}", timeout=2.0, context=self._tls) as reply:
                return bool(reply.status == 200)
        except OSError:
            return False

    def _serves_metrics(self, port: int) -> bool:
        try:
            return bool(self.metrics(port))
        except OSError:
            return False

    def _until(self, holds: Callable[[], bool], what: str) -> None:
        end_s = time.monotonic() + READY_WITHIN_S
        while not holds():
            self.check()
            if time.monotonic() > end_s:
                tails = "; ".join(f"{name}: {child.log_tail(2)}" for name, child in self._children.items())
                raise ControlPlaneError(f"{what}: not there after {READY_WITHIN_S:.0f} s; {tails}")
            time.sleep(_POLL_S)
