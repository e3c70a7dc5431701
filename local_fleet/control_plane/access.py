"""Who may speak to the API server: certificates of users and their kubeconfig files."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from pathlib import Path

from local_fleet.control_plane.certificates import Authority, Pair

CLUSTER = "splatfleet"
ADMINISTRATORS = "system:masters"


class Access:
    """Issues users of one API server; each kubeconfig file holds its certificates, so that it can be copied away."""

    def __init__(self, folder: Path, authority: Authority, server: str) -> None:
        self.folder = folder
        self.authority = authority
        self.server = server
        folder.mkdir(parents=True, exist_ok=True)

    def user(self, name: str, groups: Sequence[str] = (), namespace: str = "default") -> Path:
        """A kubeconfig for a user; RBAC sees exactly this name and these groups."""
        path = self.folder / f"{name.replace(':', '-').replace('/', '-')}.kubeconfig"
        path.touch(mode=0o600)
        pair = self.authority.issue(name, groups)
        path.write_text(kubeconfig(self.server, self.authority.certificate, pair, namespace))
        return path

    def service_account(self, namespace: str, name: str) -> Path:
        """A kubeconfig with identity and namespace of a service account, as its pods have them; it need not exist."""
        groups = ("system:serviceaccounts", f"system:serviceaccounts:{namespace}", "system:authenticated")
        return self.user(f"system:serviceaccount:{namespace}:{name}", groups, namespace)


def kubeconfig(server: str, authority: Path, pair: Pair, namespace: str = "default") -> str:
    """A kubeconfig (JSON, which is YAML) with one context."""
    user = {"client-certificate-data": _encoded(pair.certificate), "client-key-data": _encoded(pair.key)}
    cluster = {"server": server, "certificate-authority-data": _encoded(authority)}
    return json.dumps(
        {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": CLUSTER,
            "clusters": [{"name": CLUSTER, "cluster": cluster}],
            "users": [{"name": CLUSTER, "user": user}],
            "contexts": [{"name": CLUSTER, "context": {"cluster": CLUSTER, "user": CLUSTER, "namespace": namespace}}],
        },
        indent=1,
    )


def _encoded(path: Path) -> str:
    return base64.b64encode(path.read_bytes()).decode()
