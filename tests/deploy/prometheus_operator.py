"""What the Prometheus operator makes of rendered monitors and rules: the configuration of a real Prometheus."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

Object = dict[str, Any]
Ask = Callable[[str], Any]  # a path of the API server -> its answer
API = "/apis/monitoring.coreos.com/v1"


def configure(ask: Ask, release: str, folder: Path) -> Path:
    """Write the configuration for the monitors and rules of a release, and the files that it names."""
    mine = f"labelSelector=app.kubernetes.io/instance%3D{release}"
    jobs = [
        _job(ask, monitor, endpoint, folder)
        for plural in ("servicemonitors", "podmonitors")
        for monitor in ask(f"{API}/{plural}?{mine}")["items"]
        for endpoint in monitor["spec"].get("endpoints", ()) or monitor["spec"]["podMetricsEndpoints"]
    ]
    rules = []
    for rule in ask(f"{API}/prometheusrules?{mine}")["items"]:
        rules.append(f"{rule['metadata']['name']}.yaml")
        (folder / rules[-1]).write_text(yaml.safe_dump(rule["spec"]))
    timing = {"scrape_interval": "2s", "evaluation_interval": "2s"}
    path = folder / "prometheus.yml"
    path.write_text(json.dumps({"global": timing, "rule_files": rules, "scrape_configs": jobs}))
    return path


def write_targets(ask: Ask, folder: Path) -> None:
    """Write where the pods of all monitors are now; Prometheus reads the files again by itself."""
    for job in json.loads((folder / "prometheus.yml").read_text())["scrape_configs"]:
        kind, namespace, name, port = job["job_name"].split("/")
        monitor = ask(f"{API}/namespaces/{namespace}/{kind}/{name}")
        found = [_target(pod, port) for pod in _pods(ask, monitor)]
        temporary = folder / "new.json"
        temporary.write_text(json.dumps([target for target in found if target]))
        temporary.replace(folder / job["file_sd_configs"][0]["files"][0])


def _job(ask: Ask, monitor: Object, endpoint: Object, folder: Path) -> Object:
    metadata = monitor["metadata"]
    plural = f"{monitor['kind'].lower()}s"
    name = f"{plural}/{metadata['namespace']}/{metadata['name']}/{endpoint['port']}"
    file = name.replace("/", "-") + ".json"
    (folder / file).write_text("[]")
    made: Object = {
        "job_name": name,
        "honor_labels": endpoint["honorLabels"],
        "file_sd_configs": [{"files": [file], "refresh_interval": "1s"}],
        "relabel_configs": [_relabeling(found) for found in endpoint.get("relabelings", ())],
    }
    if endpoint.get("scheme") == "https":
        made |= {"scheme": "https", "tls_config": _tls(ask, metadata["namespace"], endpoint["tlsConfig"], folder)}
    return made


def _relabeling(found: Mapping[str, Any]) -> Object:
    names = {"sourceLabels": "source_labels", "targetLabel": "target_label"}
    return {names.get(key, key): value for key, value in found.items()}


def _tls(ask: Ask, namespace: str, config: Object, folder: Path) -> Object:
    made = {"server_name": config["serverName"]}
    references = {"ca_file": config["ca"]["secret"], "cert_file": config["cert"]["secret"]}
    for name, reference in {**references, "key_file": config["keySecret"]}.items():
        data = ask(f"/api/v1/namespaces/{namespace}/secrets/{reference['name']}")["data"]
        (folder / f"{name}.pem").write_bytes(base64.b64decode(data[reference["key"]]))
        made[name] = f"{name}.pem"
    return made


def _pods(ask: Ask, monitor: Object) -> Iterator[Object]:
    """The pods that a monitor selects, of a ServiceMonitor through its Services."""
    namespace, selector = monitor["metadata"]["namespace"], monitor["spec"]["selector"]
    if monitor["kind"] == "PodMonitor":
        yield from ask(f"/api/v1/namespaces/{namespace}/pods?labelSelector={_query(selector)}")["items"]
        return
    for service in ask(f"/api/v1/namespaces/{namespace}/services?labelSelector={_query(selector)}")["items"]:
        of_service = _query({"matchLabels": service["spec"]["selector"]})
        yield from ask(f"/api/v1/namespaces/{namespace}/pods?labelSelector={of_service}")["items"]


def _query(selector: Object) -> str:
    words = [f"{key}%3D{value}" for key, value in selector.get("matchLabels", {}).items()]
    return ",".join([*words, *(found["key"] for found in selector.get("matchExpressions", ()))])  # Exists, all of them


def _target(pod: Object, port: str) -> Object | None:
    ports = [found for one in pod["spec"]["containers"] for found in one.get("ports", ()) if found["name"] == port]
    address = pod["status"].get("podIP")
    if not ports or not address or pod["metadata"].get("deletionTimestamp"):
        return None
    told = {"__meta_kubernetes_pod_node_name": pod["spec"]["nodeName"]}
    for key, value in pod["metadata"]["labels"].items():
        told["__meta_kubernetes_pod_label_" + "".join(c if c.isalnum() else "_" for c in key)] = value
    return {"targets": [f"{address}:{ports[0]['containerPort']}"], "labels": told}
