"""What a pod finds around itself: its node's devices and folders, its configuration, an address, and faults."""

from __future__ import annotations

import itertools
import random
import secrets
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from fleet.labels import POOL_LABEL
from kube.connection import Connection
from local_fleet.kubelet.container_plan import ContainerPlan
from local_fleet.kubelet.pod_spec import RunContainer, RunPod
from local_fleet.kubelet.processes import Start


class Addresses:
    """Addresses of pods and nodes in a part of 127.0.0.0/8 that was drawn, so that two clusters do not meet."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._prefix = f"127.{secrets.randbelow(250) + 2}.{secrets.randbelow(250) + 2}"
        self._numbers: Iterator[int] = itertools.cycle(range(1, 255))
        self._taken: set[str] = set()

    def take(self) -> str:
        """An address that nobody has; one that was given back is used again as late as possible."""
        with self._lock:
            for number in itertools.islice(self._numbers, 254):
                address = f"{self._prefix}.{number}"
                if address not in self._taken:
                    self._taken.add(address)
                    return address
        raise RuntimeError("all 254 addresses of this kubelet are taken")

    def give_back(self, address: str) -> None:
        with self._lock:
            self._taken.discard(address)


@dataclass(slots=True)
class Faults:
    """What goes wrong on demand; read at each start of a pod or container."""

    crash_loop: Callable[[RunPod], bool] | None = None
    slow_start_s: float = 0.0  # on top of the provisioning delay

    def crashes(self, pod: RunPod) -> bool:
        return self.crash_loop is not None and self.crash_loop(pod)


@dataclass(slots=True)
class Provisioning:
    """How long image and container take: log-normal about the mean, drawn anew for each pod."""

    mean_s: float = 0.0
    sigma: float = 0.2
    random: random.Random = field(default_factory=lambda: random.Random(0))

    def draw_s(self) -> float:
        return self.mean_s * self.random.lognormvariate(0.0, self.sigma)


@dataclass(frozen=True, slots=True)
class Surroundings:
    """Everything that a pod's worker asks of its node and of the kubelet."""

    connection: Connection
    allocate: Callable[[RunPod], None]  # raises NoDevice, KubeError
    release: Callable[[str], None]
    addresses: Addresses
    node_ip: str
    faults: Faults
    restart_first_s: float
    start: Start
    plan: Callable[[RunContainer, RunPod, str], ContainerPlan]  # raises PlanError
    pods_folder: Path
    provisioning: Provisioning
    before_end: Callable[[str], None] | None = None

    def pod_folder(self, pod: RunPod) -> Path:
        return self.pods_folder / pod.metadata.uid

    def provision_s(self, pod: RunPod) -> float:
        """Seconds until a pod's containers start; only renderers have images worth waiting for."""
        own_s = self.provisioning.draw_s() if pod.metadata.label(POOL_LABEL) else 0.0
        return own_s + self.faults.slow_start_s
