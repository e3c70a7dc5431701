"""A kube-scheduler in a pod as a process: its configuration is a file, so what is moved here is moved in the file."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import yaml

from local_fleet.kubelet.container_plan import PlanError

_CONFIG = "--config="


def local_arguments(
    arguments: Sequence[str], pod_ip: str, kubeconfig: str, here: Callable[[str], str]
) -> tuple[str, ...]:
    """The arguments with a configuration that holds on this machine; raises PlanError.

    Mount paths and names of Services in it are replaced as in a command line, and where a pod has its service account
    by itself (`rest.InClusterConfig` has its path built in), a kubeconfig with the same token says so.
    """
    given = next((word.removeprefix(_CONFIG) for word in arguments if word.startswith(_CONFIG)), "")
    if not given or not kubeconfig:
        raise PlanError("kube-scheduler: needs --config and a mounted service account")
    document = yaml.safe_load(here(Path(given).read_text()))
    document["clientConnection"] = {**document.get("clientConnection", {}), "kubeconfig": kubeconfig}
    path = Path(given).with_suffix(".here.yaml")
    path.write_text(yaml.safe_dump(document))
    return (
        *(word for word in arguments if not word.startswith(_CONFIG)),
        f"{_CONFIG}{path}",
        f"--bind-address={pod_ip}",
        f"--authentication-kubeconfig={kubeconfig}",
        f"--authorization-kubeconfig={kubeconfig}",
    )
