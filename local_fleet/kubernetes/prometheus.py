"""A real Prometheus beside the control plane: it is told of our pods as they come, and may be given a past."""

from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fleet import labels, metrics
from kube.connection import Connection
from kube.objects import PODS, Pod
from kube.reflector import Reflector, Scope
from local_fleet.child import Child

SCRAPE_S = 0.25  # of the gateway: a bin of one second then has four samples
OTHERS_SCRAPE_S = 1.0
TOOLS = Path(".tools/prometheus")  # where scripts/install-prometheus.sh puts them
# Component and port name of what has metrics, by job.
SCRAPED = {
    "gateway": (("gateway", "http"),),
    "splatfleet": (
        ("autoscaler", "http"),
        ("extender", "http"),
        (labels.NODE_COMPONENT, labels.EXPORTER_PORT_NAME),
        (labels.NODE_COMPONENT, labels.SCENE_AGENT_PORT_NAME),
    ),
}


class NoPrometheus(RuntimeError):
    """Prometheus or promtool is not here; says the fix."""


def program(name: str) -> str:
    """`prometheus` or `promtool`, from .tools/prometheus or PATH; raises NoPrometheus."""
    local = TOOLS / name
    found = str(local.resolve()) if os.access(local, os.X_OK) else shutil.which(name)
    if found is None:
        raise NoPrometheus(f"no {name}: run scripts/install-prometheus.sh {TOOLS}, or put it on PATH")
    return found


class Targets:
    """Keeps the files that Prometheus reads its targets from as a pod watch says: Debian's has no Kubernetes in it."""

    def __init__(self, connection: Connection, namespace: str, folder: Path) -> None:
        self._folder = folder
        scope = Scope(namespace, label_selector=labels.COMPONENT_LABEL)
        self._pods: Reflector[Pod] = Reflector(connection, PODS, scope, lambda _: self._write())
        self._write()

    def start(self) -> Targets:
        self._pods.start()
        return self

    def stop(self) -> None:
        self._pods.stop()

    def file(self, job: str) -> Path:
        return self._folder / f"targets-{job}.json"

    def _write(self) -> None:
        for job, wanted in SCRAPED.items():
            groups = [group for pod in self._pods.items() for group in _targets(pod, wanted)]
            temporary = self.file(job).with_suffix(".new")
            temporary.write_text(json.dumps(groups))
            temporary.replace(self.file(job))


def _targets(pod: Pod, wanted: tuple[tuple[str, str], ...]) -> Iterator[dict[str, Any]]:
    if not pod.status.pod_ip or pod.terminating:
        return
    for component, port_name in wanted:
        port = pod.port(port_name, 0)
        if pod.metadata.label(labels.COMPONENT_LABEL) == component and port:
            told = {"node": pod.spec.node_name, "pod": pod.metadata.name}
            yield {"targets": [f"{pod.status.pod_ip}:{port}"], "labels": told}


def configuration(targets: Targets) -> dict[str, Any]:
    """One job for the gateway, scraped often, and one for the others."""

    def job(name: str, every_s: float) -> dict[str, Any]:
        every = f"{round(1000 * every_s)}ms"
        files = [{"files": [str(targets.file(name))], "refresh_interval": "5s"}]
        return {"job_name": name, "scrape_interval": every, "scrape_timeout": every, "file_sd_configs": files}

    return {"scrape_configs": [job("gateway", SCRAPE_S), job("splatfleet", OTHERS_SCRAPE_S)]}


def exposition_of_past(
    arrivals: NDArray[np.float64], bin_s: float, end_s: float, series: Mapping[str, str]
) -> Iterator[str]:
    """Arrivals a bin until `end_s` (Unix time) as the gateway's counter, in OpenMetrics; NaN bins have no sample."""
    name = metrics.GATEWAY_REQUESTS.name
    yield f"# TYPE {name.removesuffix('_total')} counter\n"
    told = ",".join(f'{key}="{value}"' for key, value in series.items())
    total = 0.0
    steps = max(1, round(bin_s / SCRAPE_S))
    for index, count in enumerate(arrivals):
        if math.isnan(count):
            continue
        for step in range(1, steps + 1):
            moment_s = end_s - (len(arrivals) - index - step / steps) * bin_s
            yield f"{name}{{{told}}} {total + count * step / steps:.6f} {moment_s:.3f}\n"
        total += count
    yield "# EOF\n"


def write_past(folder: Path, lines: Iterator[str]) -> None:
    """Blocks with this past into the data folder of a Prometheus that does not run; raises RuntimeError."""
    text = folder.with_suffix(".openmetrics")
    with text.open("w") as sink:
        sink.writelines(lines)
    command = [program("promtool"), "tsdb", "create-blocks-from", "openmetrics", str(text), str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60.0, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"promtool could not write the past: {(done.stderr or done.stdout).strip()[-300:]}")


def start(folder: Path, targets: Targets, port: int, log: Path) -> Child:
    """Start it over `folder`/prometheus and wait until it listens; raises RuntimeError."""
    config = folder / "prometheus.yaml"
    config.write_text(json.dumps(configuration(targets), indent=1))
    flags = {
        "config.file": config,
        "storage.tsdb.path": folder / "prometheus",
        "storage.tsdb.retention.time": "400d",
        "web.listen-address": f"127.0.0.1:{port}",
        "log.level": "warn",
    }
    child = Child("prometheus", [program("prometheus"), *(f"--{key}={value}" for key, value in flags.items())], log)
    try:
        child.wait_listening(port)
    except BaseException:
        child.stop()
        raise
    return child
