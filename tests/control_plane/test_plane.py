"""The real control plane: pods are scheduled, RBAC decides, and nothing outlives the process that started it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from local_fleet.control_plane.binaries import Binaries
from local_fleet.control_plane.plane import ControlPlane, ControlPlaneError
from tests.control_plane.objects import add_node, node_of, pod


def until(holds: Callable[[], bool], within_s: float = 40.0) -> bool:
    end_s = time.monotonic() + within_s
    while not holds():
        if time.monotonic() > end_s:
            return False
        time.sleep(0.05)
    return True


def fault(plane: ControlPlane) -> str:
    """What a check says; empty where all is well."""
    try:
        plane.check()
    except ControlPlaneError as error:
        return str(error)
    return ""


def test_the_scheduler_binds_a_pod_to_a_node_with_slices(control_plane: ControlPlane) -> None:
    slices = "nvidia.com/mig-1g.10gb"
    add_node(control_plane, "plane-without")
    add_node(control_plane, "plane-with", {slices: 7})
    control_plane.request("POST", "/api/v1/namespaces/default/pods", pod("plane-pod", {slices: 1}))
    assert until(lambda: node_of(control_plane, "plane-pod") == "plane-with")
    assert "plane-with" in control_plane.kubectl("get", "nodes", "-o", "name")
    control_plane.kubectl("delete", "pod/plane-pod", "node/plane-with", "node/plane-without", "--force")


def test_a_user_may_do_what_its_role_says_and_nothing_else(control_plane: ControlPlane) -> None:
    reader = control_plane.access.service_account("default", "plane-reader")
    subject = {"kind": "ServiceAccount", "name": "plane-reader", "namespace": "default"}
    api = "rbac.authorization.k8s.io"
    control_plane.apply(
        {
            "apiVersion": f"{api}/v1",
            "kind": "ClusterRole",
            "metadata": {"name": "plane-reader"},
            "rules": [{"apiGroups": [""], "resources": ["nodes"], "verbs": ["list"]}],
        },
        {
            "apiVersion": f"{api}/v1",
            "kind": "ClusterRoleBinding",
            "metadata": {"name": "plane-reader"},
            "roleRef": {"apiGroup": api, "kind": "ClusterRole", "name": "plane-reader"},
            "subjects": [subject],
        },
    )
    control_plane.kubectl("get", "nodes", kubeconfig=reader)
    with pytest.raises(ControlPlaneError, match="plane-reader.*cannot list resource .pods"):
        control_plane.kubectl("get", "pods", kubeconfig=reader)


def test_what_was_written_is_there_after_the_api_server_was_killed(
    control_plane_binaries: Binaries, tmp_path: Path
) -> None:
    with ControlPlane(control_plane_binaries, tmp_path) as plane:
        add_node(plane, "kept")
        os.kill(plane.pid("kube-apiserver"), signal.SIGKILL)
        assert until(lambda: not plane.exists("/api/v1/nodes/kept"))
        assert until(lambda: "kube-apiserver ended with -9" in fault(plane))  # its sockets close before it has ended
        plane.restart_program("kube-apiserver")
        plane.wait_ready()
        assert plane.exists("/api/v1/nodes/kept")


_HOLDER = """
import sys, time
from pathlib import Path
from local_fleet.control_plane.binaries import find
from local_fleet.control_plane.plane import ControlPlane
plane = ControlPlane(find(), Path(sys.argv[1])).start()
programs = "etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler"
print(*map(plane.pid, programs), flush=True)
time.sleep(600)
"""


@pytest.mark.usefixtures("control_plane_binaries")
def test_everything_dies_with_its_parent_also_after_kill_9(tmp_path: Path) -> None:
    holder = subprocess.Popen(
        [sys.executable, "-c", _HOLDER, str(tmp_path)], stdout=subprocess.PIPE, text=True, env=os.environ
    )
    assert holder.stdout is not None
    pids = [int(word) for word in holder.stdout.readline().split()]
    assert len(pids) == 4
    holder.kill()
    holder.wait()
    assert until(lambda: not any(_runs(pid) for pid in pids), within_s=20.0)
    holder.stdout.close()


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
