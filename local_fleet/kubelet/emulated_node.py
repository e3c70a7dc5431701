"""An emulated GPU node: its object in the API, its folders on this machine, the devices that it offers."""

from __future__ import annotations

import dataclasses
import json
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fleet import labels
from fleet.digest import GpuDigest
from kube import writes
from kube.connection import Connection
from kube.errors import Refused
from kube.lease import LEASES
from kube.objects import NODES
from local_fleet.kubelet import dynamic_resources
from local_fleet.kubelet.devices import Devices
from local_fleet.kubelet.pod_spec import RunPod
from local_fleet.kubelet.pod_status import written

GPU_TAINT = {"key": labels.GPU_RESOURCE, "value": "present", "effect": "NoSchedule"}
GPUS_FILE_ENV = "SPLATFLEET_EXPORTER_GPUS_FILE"  # the exporter's --gpus-file
NODE_LEASES = "kube-node-lease"


class EmulatedNode:
    """One node with one GPU.

    `host_paths` maps a path on the node, as hostPath volumes name it, to a folder here; `environment` is what its
    container runtime adds to every container, as NVIDIA's does for devices.
    """

    def __init__(
        self,
        name: str,
        gpu: GpuDigest | None,
        folder: Path,
        host_paths: Mapping[str, Path] | None = None,
        labels_of_node: Mapping[str, str] | None = None,
        dynamic: bool = False,
    ) -> None:
        """With `dynamic` the slices are devices of a ResourceSlice, else extended resources of the node."""
        self.name = name
        self.folder = folder
        self.host_paths = dict(host_paths or {})
        self.devices = Devices(gpu or GpuDigest("", ""))
        self.labels = dict(labels_of_node or {})
        self.dynamic = dynamic
        # A file stands in the place of NVML.
        self.environment = {GPUS_FILE_ENV: str(folder / "gpus.json")} if gpu is not None else {}
        self.lost = False
        self._has_gpu = gpu is not None
        self._lock = threading.Lock()
        self._giving = threading.Lock()
        folder.mkdir(parents=True, exist_ok=True)
        self.tell_devices()

    @property
    def gpus_file(self) -> Path:
        """The layout with the pod of each slice, as the exporter reads it in the place of NVML."""
        return self.folder / "gpus.json"

    def tell_devices(self) -> None:
        """Write the slices and their pods."""
        with self._lock:
            gpus = [dataclasses.asdict(self.devices.now())] if self._has_gpu else []
            temporary = self.gpus_file.with_suffix(".new")
            temporary.write_text(json.dumps({"gpus": gpus}))
            temporary.replace(self.gpus_file)

    def host_folder(self, path: str) -> Path:
        """The folder that stands for a path of the node."""
        for known, folder in sorted(self.host_paths.items(), key=lambda pair: -len(pair[0])):
            if path == known or path.startswith(known + "/"):
                return folder / path[len(known) :].lstrip("/")
        return self.folder / "root" / path.lstrip("/")

    def register(self, connection: Connection, address: str) -> None:
        """Join the cluster, tainted as GPU nodes are, and say that it is ready; a node that exists is taken over."""
        taints = [GPU_TAINT] if self._has_gpu else []
        document = {
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": {"name": self.name, "labels": self._labels()},
            "spec": {"taints": taints, "providerID": f"emulated://{self.name}"},
        }
        try:
            writes.create(connection, NODES, document)
        except Refused as error:
            if not error.conflict:
                raise
        resources = {"cpu": "32", "memory": "128Gi", "pods": "110", "ephemeral-storage": "500Gi"}
        if not self.dynamic:
            resources |= self.devices.capacity()
        status = {
            "capacity": resources,
            "allocatable": resources,
            "addresses": [{"type": "InternalIP", "address": address}, {"type": "Hostname", "address": self.name}],
            "nodeInfo": _node_info(self.name),
        }
        writes.patch_status(connection, NODES, self.name, None, status)
        if self.dynamic:
            dynamic_resources.publish(connection, self.name, self.devices.now())
        self.beat(connection)

    def deregister(self, connection: Connection) -> None:
        """Take the node out of the cluster; one that is gone already is no error."""
        if self.dynamic:
            dynamic_resources.withdraw(connection, self.name)
        try:
            writes.delete(connection, NODES.path(None, self.name))
        except Refused as error:
            if not error.absent:
                raise

    def claimed(self, connection: Connection, pod: RunPod) -> list[str]:
        """The devices that a pod's claims name; raises KubeError where they cannot be read."""
        return dynamic_resources.given_to(connection, pod, self.name) if self.dynamic else []

    def allocate(self, pod: RunPod, claimed: Sequence[str] = ()) -> None:
        """Give a pod its slices; raises NoDevice. Pods come and go at once, each with a thread."""
        with self._giving:
            if self.dynamic:
                self.devices.allocate_named(pod, claimed)
            else:
                self.devices.allocate(pod)
        self.tell_devices()

    def release(self, uid: str) -> None:
        """Free the slices of a pod; a node that is lost tells nobody."""
        with self._giving:
            self.devices.release(uid)
        if not self.lost:
            self.tell_devices()

    def set_health(self, uid: str, healthy: bool) -> None:
        """Break or mend the slices of a pod; the exporter tells, the node's resources stay as they are."""
        with self._giving:
            self.devices.set_health(uid, healthy)
        self.tell_devices()

    def beat(self, connection: Connection) -> None:
        """Renew the node's Lease and its Ready condition, as a kubelet does."""
        now = written(time.time())
        ready = {
            "type": "Ready",
            "status": "True",
            "reason": "KubeletReady",
            "message": "emulated",
            "lastHeartbeatTime": now,
        }
        path = NODES.path(None, self.name, "status")
        writes.patch(connection, path, {"status": {"conditions": [ready]}}, content_type=writes.STRATEGIC_PATCH)
        micro = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime()) + ".000000Z"
        spec = {"holderIdentity": self.name, "leaseDurationSeconds": 40, "renewTime": micro}
        try:
            writes.patch(connection, LEASES.path(NODE_LEASES, self.name), {"spec": spec})
        except Refused as error:
            if not error.absent:
                raise
            kind = {"apiVersion": LEASES.group_version, "kind": "Lease"}
            document = {**kind, "metadata": {"name": self.name, "namespace": NODE_LEASES}, "spec": spec}
            writes.create(connection, LEASES, document, NODE_LEASES)

    def _labels(self) -> dict[str, str]:
        plain = {"kubernetes.io/hostname": self.name, "kubernetes.io/os": "linux", "kubernetes.io/arch": "amd64"}
        if self._has_gpu:
            plain |= {"nvidia.com/gpu.present": "true", "nvidia.com/mig.strategy": "mixed"}
        return plain | self.labels


def _node_info(name: str) -> dict[str, Any]:
    return {
        "machineID": name,
        "systemUUID": name,
        "bootID": name,
        "kernelVersion": "emulated",
        "osImage": "emulated",
        "containerRuntimeVersion": "processes://1",
        "kubeletVersion": "v1.36.3",
        "kubeProxyVersion": "",
        "operatingSystem": "linux",
        "architecture": "amd64",
    }
