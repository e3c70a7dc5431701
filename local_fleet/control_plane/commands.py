"""The command lines of the five programs: everything on loopback, RBAC on, no kubelet, DNS or kube-proxy needed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from local_fleet.control_plane.certificates import Pair

HOST = "127.0.0.1"


@dataclass(frozen=True, slots=True)
class Ports:
    """One port of the loopback interface for each listener."""

    etcd_clients: int
    etcd_peers: int
    apiserver: int
    controllers: int
    scheduler: int


@dataclass(frozen=True, slots=True)
class Files:
    """What the programs read."""

    authority: Path
    server: Pair
    tokens: Pair  # public and private key that sign service account tokens
    front_proxy_authority: Path
    front_proxy: Pair  # how the API server shows itself to aggregated APIs


def etcd(ports: Ports, data: Path) -> list[str]:
    """One member; without fsync, since nothing here has to outlive the machine."""
    clients, peers = f"http://{HOST}:{ports.etcd_clients}", f"http://{HOST}:{ports.etcd_peers}"
    return [
        f"--data-dir={data}",
        f"--listen-client-urls={clients}",
        f"--advertise-client-urls={clients}",
        f"--listen-peer-urls={peers}",
        f"--initial-advertise-peer-urls={peers}",
        f"--initial-cluster=default={peers}",
        "--unsafe-no-fsync",
        "--auto-compaction-retention=5m",
        "--quota-backend-bytes=4294967296",
        "--log-level=warn",
    ]


def apiserver(ports: Ports, files: Files) -> list[str]:
    """RBAC and Node authorization, client certificates and service account tokens, aggregated APIs."""
    return [
        f"--etcd-servers=http://{HOST}:{ports.etcd_clients}",
        f"--bind-address={HOST}",
        f"--advertise-address={HOST}",
        f"--secure-port={ports.apiserver}",
        "--service-cluster-ip-range=10.0.0.0/16",
        "--endpoint-reconciler-type=none",
        "--authorization-mode=Node,RBAC",
        f"--tls-cert-file={files.server.certificate}",
        f"--tls-private-key-file={files.server.key}",
        f"--client-ca-file={files.authority}",
        f"--service-account-key-file={files.tokens.certificate}",
        f"--service-account-signing-key-file={files.tokens.key}",
        "--service-account-issuer=https://kubernetes.default.svc",
        f"--requestheader-client-ca-file={files.front_proxy_authority}",
        "--requestheader-allowed-names=front-proxy-client",
        "--requestheader-username-headers=X-Remote-User",
        "--requestheader-group-headers=X-Remote-Group",
        "--requestheader-extra-headers-prefix=X-Remote-Extra-",
        f"--proxy-client-cert-file={files.front_proxy.certificate}",
        f"--proxy-client-key-file={files.front_proxy.key}",
        "--max-requests-inflight=2000",
        "--max-mutating-requests-inflight=1000",
    ]


def controllers(ports: Ports, files: Files, kubeconfig: Path) -> list[str]:
    """All controllers that need no cloud; a node may be a day without heartbeat, unless a later flag says less."""
    return [
        f"--kubeconfig={kubeconfig}",
        f"--authentication-kubeconfig={kubeconfig}",
        f"--authorization-kubeconfig={kubeconfig}",
        f"--bind-address={HOST}",
        f"--secure-port={ports.controllers}",
        f"--service-account-private-key-file={files.tokens.key}",
        f"--root-ca-file={files.authority}",
        "--use-service-account-credentials=true",
        "--leader-elect=false",
        "--allocate-node-cidrs=false",
        "--node-monitor-grace-period=24h",
        "--node-monitor-period=2s",
        "--kube-api-qps=2000",
        "--kube-api-burst=4000",
    ]


def scheduler(port: int, kubeconfig: Path, configuration: Path) -> list[str]:
    """One kube-scheduler with a KubeSchedulerConfiguration of its own."""
    return [
        f"--config={configuration}",
        f"--authentication-kubeconfig={kubeconfig}",
        f"--authorization-kubeconfig={kubeconfig}",
        f"--bind-address={HOST}",
        f"--secure-port={port}",
    ]
