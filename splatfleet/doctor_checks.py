"""What `splatfleet doctor` makes of what it finds: plain values in, findings out, each fault with its fix."""

from __future__ import annotations

import base64
import itertools
import ssl
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import yaml

from fleet.labels import (
    COMPONENT_LABEL,
    EXPORTER_BESIDE_LABEL,
    GPU_RESOURCE,
    MIG_RESOURCE_PREFIX,
    NODE_COMPONENT,
)
from kube.objects import time_s
from kube.tls import not_after_s
from splatfleet.kubectl import Json, condition, duration

State = Literal["ok", "warn", "fail", "skip"]
OLDEST_MINOR = 29  # of Kubernetes 1: rules of a schema that name a field's path are on by default
SKEW_S = 5.0
EXPIRES_SOON_S = 14 * 86_400.0
CRD_FIX = "kubectl apply -f deploy/chart/crds/splatfleet.io_predictiveautoscalers.yaml"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at; `fix` is what to do about one that is not ok."""

    check: str
    state: State
    said: str
    fix: str = ""


def version(found: Json) -> Finding:
    minor = "".join(filter(str.isdigit, str(found.get("minor", "")))) or "0"
    said = f"Kubernetes {found.get('gitVersion')}"
    if found.get("major") == "1" and int(minor) < OLDEST_MINOR:
        return Finding("api server", "fail", said, f"upgrade to 1.{OLDEST_MINOR} or newer")
    return Finding("api server", "ok", said)


def definition(crd: Json | None, known_fields: Iterable[str]) -> Iterator[Finding]:
    """The definition of the resource against the fields that this version reads."""
    if crd is None:
        yield Finding("crd", "fail", "predictiveautoscalers.splatfleet.io is not installed", CRD_FIX)
        return
    if condition(crd, "Established").get("status") != "True":
        yield Finding("crd", "fail", "predictiveautoscalers.splatfleet.io is not established", "kubectl describe crd")
        return
    served = [found for found in crd["spec"]["versions"] if found.get("served") and found.get("name") == "v1alpha1"]
    if not served:
        yield Finding("crd", "fail", "version v1alpha1 is not served", CRD_FIX)
        return
    schema = served[0].get("schema", {}).get("openAPIV3Schema", {}).get("properties", {}).get("spec", {})
    missing = sorted(path for path in known_fields if not _has_field(schema, path))
    if missing:
        said = f"the definition lacks {', '.join(missing[:5])}: the API server drops them"
        yield Finding("crd", "warn", said, f"it is of another version; {CRD_FIX}")
    else:
        yield Finding("crd", "ok", "predictiveautoscalers.splatfleet.io v1alpha1 is served")


def _has_field(schema: Mapping[str, Any], path: str) -> bool:
    for part in path.split("."):
        schema = (schema.get("properties") or {}).get(part) or {}
    return bool(schema)


def autoscalers(items: Sequence[Json]) -> Iterator[Finding]:
    """Whether each resource is decided for and carried out."""
    if not items:
        yield Finding(
            "autoscalers", "warn", "there is no PredictiveAutoscaler", "make one: docs/predictiveautoscaler.md"
        )
    for item in items:
        name = f"{item['metadata']['namespace']}/{item['metadata']['name']}"
        ready = condition(item, "Ready")
        if not ready:
            fix = "is the autoscaler running, and does it follow this namespace? (--namespace)"
            yield Finding("autoscalers", "fail", f"{name} was never decided for", fix)
        elif ready.get("status") != "True":
            yield Finding(
                "autoscalers", "fail", f"{name}: {ready.get('message')}", f"splatfleet explain autoscaler {name}"
            )
        elif condition(item, "MetricsAvailable").get("status") == "False":
            said = f"{name}: {condition(item, 'MetricsAvailable').get('message')}"
            yield Finding("autoscalers", "fail", said, "is the gateway scraped, and by this Prometheus?")
        else:
            yield Finding("autoscalers", "ok", f"{name} is decided for")


def second_writers(items: Sequence[Json], writers: Sequence[tuple[str, str, str, str]]) -> Iterator[Finding]:
    """`writers` are kind, namespace, name and target of each HPA and ScaledObject."""
    found = False
    for item in items:
        spec, namespace = item.get("spec") or {}, item["metadata"]["namespace"]
        target = (spec.get("scaleTargetRef") or {}).get("name")
        for kind, where, name, scaled in writers:
            if (where, scaled) != (namespace, target) or spec.get("mode") == "Shadow":
                continue
            found = True
            said = f"{kind} {where}/{name} and PredictiveAutoscaler {item['metadata']['name']} both scale {target}"
            fix = "keep one: delete it, or set spec.mode: Shadow where KEDA's HPA is to carry the decisions out"
            yield Finding("second writer", "fail", said, fix)
    if not found:
        yield Finding("second writer", "ok", "nobody else scales the targets")


def leader(lease: Json | None, now_s: float) -> Finding:
    """Whether an autoscaler holds its lease."""
    fix = "kubectl get pods -A -l app.kubernetes.io/component=autoscaler; its log says why it does not lead"
    if lease is None:
        return Finding("leader", "fail", "no autoscaler ever led", fix)
    spec = lease.get("spec") or {}
    renewed_s = time_s(spec.get("renewTime"))
    if not spec.get("holderIdentity") or renewed_s is None:
        return Finding("leader", "fail", "no autoscaler leads", fix)
    age_s = now_s - renewed_s
    if age_s > 2 * float(spec.get("leaseDurationSeconds") or 15):
        return Finding("leader", "fail", f"{spec['holderIdentity']} was last heard of {duration(age_s)} ago", fix)
    return Finding("leader", "ok", f"{spec['holderIdentity']} leads")


def clocks(server_s: float | None, node_leases: Sequence[Json], now_s: float) -> Iterator[Finding]:
    """Our clock against the API server's, and the nodes' heartbeats against it."""
    fix = "synchronise the clocks (chrony, systemd-timesyncd): Leases and forecasts go by them"
    if server_s is None:
        yield Finding("clocks", "skip", "the API server sends no date")
        return
    skew_s = now_s - server_s
    if abs(skew_s) > SKEW_S:
        yield Finding("clocks", "fail", f"this machine is {skew_s:+.0f} s off the API server", fix)
    ahead = []
    for lease in node_leases:
        renewed_s = time_s((lease.get("spec") or {}).get("renewTime"))
        if renewed_s is not None and renewed_s - server_s > SKEW_S:
            ahead.append(f"{lease['metadata']['name']} {renewed_s - server_s:+.0f} s")
    if ahead:
        yield Finding("clocks", "fail", f"nodes are ahead of the API server: {', '.join(ahead[:5])}", fix)
    if not ahead and abs(skew_s) <= SKEW_S:
        yield Finding("clocks", "ok", f"within {SKEW_S:g} s of the API server, nodes as well")


def certificates(secrets: Sequence[Json], now_s: float) -> Iterator[Finding]:
    """How long the TLS secrets of the installation hold."""
    if not secrets:
        yield Finding("certificates", "skip", "no TLS secret of splatfleet is there")
    for secret in secrets:
        name = f"{secret['metadata']['namespace']}/{secret['metadata']['name']}"
        try:
            text = base64.b64decode(secret["data"]["tls.crt"]).decode()
            begin, end = ssl.PEM_HEADER, ssl.PEM_FOOTER
            first = begin + text.split(begin, 1)[1].split(end, 1)[0] + end
            left_s = not_after_s(ssl.PEM_cert_to_DER_cert(first)) - now_s
        except (KeyError, ValueError, IndexError) as error:
            said = f"{name} holds no certificate in tls.crt ({type(error).__name__})"
            yield Finding("certificates", "fail", said, "make it anew: helm upgrade, or cert-manager's Certificate")
            continue
        fix = "renew it: helm upgrade, or see why cert-manager does not"
        if left_s <= 0:
            yield Finding("certificates", "fail", f"{name} expired {duration(-left_s)} ago", fix)
        elif left_s < EXPIRES_SOON_S:
            yield Finding("certificates", "warn", f"{name} expires in {duration(left_s)}", fix)
        else:
            yield Finding("certificates", "ok", f"{name} holds for {duration(left_s)}")


def nodes(items: Sequence[Json], pods: Sequence[Json]) -> Iterator[Finding]:
    """Whether GPU nodes offer GPUs, and the pods that serve a node run on each."""
    served = {
        pod["spec"].get("nodeName")
        for pod in pods
        if (pod["metadata"].get("labels") or {}).get(COMPONENT_LABEL) == NODE_COMPONENT
        and (pod.get("status") or {}).get("phase") == "Running"
    }
    offering = []
    for node in items:
        name, labels = node["metadata"]["name"], node["metadata"].get("labels") or {}
        allocatable = (node.get("status") or {}).get("allocatable") or {}
        gpus = sum(int(v) for k, v in allocatable.items() if k == GPU_RESOURCE or k.startswith(MIG_RESOURCE_PREFIX))
        if gpus:
            offering.append(name)
            continue
        marked = labels.get("nvidia.com/gpu.present") == "true"
        if marked or "nvidia.com/gpu.product" in labels or labels.get("nvidia.com/mig.config"):
            fix = "does the device plugin run there? kubectl get pods -A -l app=nvidia-device-plugin-daemonset"
            yield Finding("gpu nodes", "fail", f"{name} is labelled as a GPU node and offers no GPU", fix)
    if not offering:
        fix = "join GPU nodes with the NVIDIA GPU Operator, or see the labels of those that are there"
        yield Finding("gpu nodes", "fail", "no node offers nvidia.com/gpu or nvidia.com/mig-*", fix)
        return
    yield Finding("gpu nodes", "ok", f"{len(offering)} of {len(items)} nodes offer GPUs or slices")
    if any(EXPORTER_BESIDE_LABEL in (pod["metadata"].get("labels") or {}) for pod in pods):
        return  # exporters are beside renderers: a node without one has nothing to tell
    bare = [name for name in offering if name not in served]
    if bare:
        said = f"no exporter and scene agent run on {', '.join(bare[:5])}: placement and warm-up do not know them"
        yield Finding("gpu nodes", "warn", said, "kubectl get daemonsets -A; do its selector and tolerations fit?")


def schedulers(config_maps: Sequence[Json], pods: Sequence[Json]) -> Iterator[Finding]:
    """Whether a scheduler's configuration that asks the extender exists, is sound, and names the pods' scheduler."""
    from scheduler_extender.scheduler_config import lint

    profiles: set[str] = set()
    for found in config_maps:
        where = f"{found['metadata']['namespace']}/{found['metadata']['name']}"
        for text in (found.get("data") or {}).values():
            if "KubeSchedulerConfiguration" not in text:
                continue
            try:
                configuration = yaml.safe_load(text)
            except yaml.YAMLError as error:
                yield Finding(
                    "scheduler",
                    "fail",
                    f"ConfigMap {where} is no YAML: {error}",
                    "splatfleet scheduler-config generate",
                )
                continue
            extenders = configuration.get("extenders") or () if isinstance(configuration, dict) else ()
            if not extenders:
                continue
            profiles |= {str(p.get("schedulerName")) for p in configuration.get("profiles") or ()}
            for problem in lint(configuration):
                state: State = "fail" if problem.error else "warn"
                fix = "splatfleet scheduler-config lint shows it in place"
                yield Finding("scheduler", state, f"ConfigMap {where}: {problem.where}: {problem.text}", fix)
    wanted = {str(pod["spec"].get("schedulerName")) for pod in pods if pod.get("spec", {}).get("schedulerName")}
    strangers = sorted(wanted - profiles)
    if not profiles:
        fix = "chart value scheduler.mode: second, or `splatfleet scheduler-config generate` for the cluster's own"
        yield Finding("scheduler", "warn", "no ConfigMap with a scheduler that asks an extender was found", fix)
    elif strangers:
        said = (
            f"renderer pods ask for scheduler {', '.join(strangers)}, which asks no extender; those that do: "
            + ", ".join(sorted(profiles))
        )
        yield Finding("scheduler", "fail", said, "set schedulerName in the pods' template (chart value scheduler.name)")
    else:
        yield Finding("scheduler", "ok", f"profile {', '.join(sorted(profiles))} asks the extender")


def components(deployments: Sequence[Json]) -> Iterator[Finding]:
    """Whether what we installed runs."""
    if not deployments:
        yield Finding(
            "components", "warn", "no Deployment of splatfleet was found", "helm install; or give -n NAMESPACE"
        )
    for item in deployments:
        status, wanted = item.get("status") or {}, (item.get("spec") or {}).get("replicas", 1)
        name = f"{item['metadata']['namespace']}/{item['metadata']['name']}"
        ready = status.get("readyReplicas", 0)
        if ready < wanted:
            fix = f"kubectl describe deployment -n {item['metadata']['namespace']} {item['metadata']['name']}"
            yield Finding("components", "fail", f"{name}: {ready} of {wanted} ready", fix)
        else:
            yield Finding("components", "ok", f"{name}: {ready} of {wanted} ready")


def permissions(who: str, denied: Sequence[str]) -> Finding:
    """`denied` are verb and resource of what may not be done."""
    if denied:
        fix = "kubectl auth can-i --list --as …; the chart's role, or autoscaler/permissions.py, has what is needed"
        return Finding("rbac", "fail", f"{who} may not {'; '.join(denied)}", fix)
    return Finding("rbac", "ok", f"{who} may do all that the autoscaler needs")


def placeholder_class(autoscaler: Json | None) -> str:
    """The PriorityClass that a Deployment's `--placeholders` names; empty where no nodes are asked for ahead."""
    containers = autoscaler["spec"]["template"]["spec"]["containers"] if autoscaler is not None else []
    flags = [str(flag) for container in containers for flag in container.get("args") or ()]
    for flag, following in itertools.pairwise([*flags, ""]):
        name, separator, value = flag.partition("=")
        if name == "--placeholders":
            return value if separator else following
    return ""


def placeholders(priority_class: str, who: str, denied: Sequence[str], known: bool) -> Finding:
    """`denied` are verb and resource of what may not be done; `known` is whether the PriorityClass is there."""
    if not priority_class:
        return Finding("placeholders", "skip", "the autoscaler asks for no nodes ahead (--placeholders)")
    if denied:
        fix = (
            "the chart's autoscaler.placeholders.enabled gives the role, and the policy that limits it to placeholders"
        )
        return Finding("placeholders", "fail", f"{who} may not {'; '.join(denied)}", fix)
    if not known:
        fix = (
            f"the chart's autoscaler.placeholders.enabled, or kubectl create priorityclass {priority_class} --value=-10"
        )
        return Finding("placeholders", "fail", f"--placeholders={priority_class}: there is no such PriorityClass", fix)
    return Finding("placeholders", "ok", f"{who} may ask for nodes ahead by pods of class {priority_class}")


def prometheus(answered: Mapping[str, float | None], error: str) -> Iterator[Finding]:
    """`answered` has the count of series by metric; None where the query failed."""
    if error:
        yield Finding("prometheus", "fail", error, "is the URL right, and reachable from here? (kubectl port-forward)")
        return
    for name, count in answered.items():
        if count:
            yield Finding("prometheus", "ok", f"{name}: {count:.0f} series")
        else:
            fix = "is its target up? PodMonitor and ServiceMonitor need the labels that this Prometheus selects"
            yield Finding("prometheus", "fail", f"{name} has no series", fix)
