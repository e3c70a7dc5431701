"""A real Prometheus beside the control plane: it finds our pods by itself, and may be given a past."""

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
from local_fleet.child import Child, free_ports

SCRAPE_S = 0.25  # of the gateway: a bin of one second then has four samples
OTHERS_SCRAPE_S = 1.0
TOOLS = Path(".tools/prometheus")  # where scripts/install-prometheus.sh puts them
# Component and port that hold metrics; a pod has a target for each of its ports else.
_SCRAPED = (
    f"gateway;http|autoscaler;http|extender;http|{labels.NODE_COMPONENT};{labels.EXPORTER_PORT_NAME}"
    f"|{labels.NODE_COMPONENT};{labels.SCENE_AGENT_PORT_NAME}"
)


class NoPrometheus(RuntimeError):
    """Prometheus or promtool is not here; says the fix."""


def program(name: str) -> str:
    """`prometheus` or `promtool`, from .tools/prometheus or PATH; raises NoPrometheus."""
    local = TOOLS / name
    found = str(local.resolve()) if os.access(local, os.X_OK) else shutil.which(name)
    if found is None:
        raise NoPrometheus(f"no {name}: run scripts/install-prometheus.sh {TOOLS}, or put it on PATH")
    return found


def configuration(kubeconfig: Path, namespace: str) -> dict[str, Any]:
    """Every component of ours in a namespace, found through the API server."""
    source = {"role": "pod", "kubeconfig_file": str(kubeconfig), "namespaces": {"names": [namespace]}}
    component = "__meta_kubernetes_pod_label_app_kubernetes_io_component"
    port = "__meta_kubernetes_pod_container_port_name"

    def job(name: str, keep: str, every_s: float) -> dict[str, Any]:
        return {
            "job_name": name,
            "scrape_interval": f"{round(1000 * every_s)}ms",
            "scrape_timeout": f"{round(1000 * every_s)}ms",
            "kubernetes_sd_configs": [source],
            "relabel_configs": [
                {"source_labels": [component, port], "regex": keep, "action": "keep"},
                {"source_labels": ["__meta_kubernetes_pod_node_name"], "target_label": "node"},
            ],
        }

    others = "|".join(part for part in _SCRAPED.split("|") if not part.startswith("gateway"))
    return {"scrape_configs": [job("gateway", "gateway;http", SCRAPE_S), job("splatfleet", others, OTHERS_SCRAPE_S)]}


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


def start(folder: Path, kubeconfig: Path, namespace: str, log: Path) -> tuple[Child, str]:
    """Start it over `folder`/prometheus and wait until it listens; its process and URL. Raises RuntimeError."""
    config = folder / "prometheus.yaml"
    config.write_text(json.dumps(configuration(kubeconfig, namespace), indent=1))
    port = free_ports(1)[0]
    flags = {
        "config.file": config,
        "storage.tsdb.path": folder / "prometheus",
        "storage.tsdb.retention.time": "400d",
        "web.listen-address": f"127.0.0.1:{port}",
        "log.level": "warn",
    }
    child = Child("prometheus", [program("prometheus"), *(f"--{key}={value}" for key, value in flags.items())], log)
    child.wait_listening(port)
    return child, f"http://127.0.0.1:{port}"
