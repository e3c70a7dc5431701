"""The objects of a fleet on Kubernetes as this machine runs it: what the chart renders, without what needs images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from autoscaler.permissions import role_rules
from fleet import labels

NAMESPACE = "splatfleet"
SCENE_STORE = "/var/lib/splatfleet/scenes"
RUN_FOLDER = "/var/run/splatfleet"
TOKEN_SECRET = "scene-agent-token"
PLACEMENT_SCHEDULER = "splatfleet-scheduler"
PROFILE = "1g.10gb"
NODE_ROLE_LABEL = "splatfleet.io/node-role"  # `gpu` or `system`, to keep the two apart
TOLERATE_GPU = [{"key": labels.GPU_RESOURCE, "operator": "Exists", "effect": "NoSchedule"}]

# A renderer on a node that fell silent serves nobody; Kubernetes' own default waits five minutes.
LEAVE_SILENT_NODE = [
    {"key": f"node.kubernetes.io/{key}", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 5}
    for key in ("unreachable", "not-ready")
]

Document = dict[str, Any]
_FOLLOW = ["get", "list", "watch"]
_RULES: Mapping[str, list[Document]] = {
    "node": [{"apiGroups": [""], "resources": ["pods"], "verbs": _FOLLOW}],
    "gateway": [{"apiGroups": [""], "resources": ["pods"], "verbs": _FOLLOW}],
    "extender": [
        {"apiGroups": [""], "resources": ["nodes"], "verbs": [*_FOLLOW, "patch"]},
        {"apiGroups": [""], "resources": ["pods"], "verbs": _FOLLOW},
        {
            "apiGroups": ["resource.k8s.io"],
            "resources": ["resourceslices", "resourceclaims", "deviceclasses"],
            "verbs": _FOLLOW,
        },
        {"apiGroups": ["splatfleet.io"], "resources": ["predictiveautoscalers"], "verbs": _FOLLOW},
    ],
    "autoscaler": list(role_rules()),
}


@dataclass(frozen=True, slots=True)
class PoolSpec:
    """What the pods of the pool are started with; `environment` is the renderer's."""

    environment: Mapping[str, str]
    replicas: int
    scenes: Sequence[str] = ()  # in memory before the first pods are ready
    name: str = "renderer"
    scheduler: str = ""  # empty: the default one
    priority_class: str = ""
    grace_s: int = 15
    drain_s: int = 2  # between the deletion and SIGTERM: gateways learn of it meanwhile
    annotations: Mapping[str, str] = field(default_factory=dict)
    gated: bool = False  # new pods wait until the autoscaler has said which scenes they load
    node_selector: Mapping[str, str] = field(default_factory=dict)


def foundations(scene_agent_token: str) -> list[Document]:
    """Namespace, service accounts with their rights, and the scene agents' token."""
    made = [_document("v1", "Namespace", NAMESPACE, namespace="")]
    made.append(_document("v1", "Secret", TOKEN_SECRET, stringData={"token": scene_agent_token}))
    rbac = "rbac.authorization.k8s.io"
    for component, rules in _RULES.items():
        name = f"{NAMESPACE}-{component}"
        subject = {"kind": "ServiceAccount", "name": component, "namespace": NAMESPACE}
        role = {"apiGroup": rbac, "kind": "ClusterRole", "name": name}
        made += [
            _document("v1", "ServiceAccount", component),
            _document(f"{rbac}/v1", "ClusterRole", name, namespace="", rules=rules),
            _document(f"{rbac}/v1", "ClusterRoleBinding", name, namespace="", roleRef=role, subjects=[subject]),
        ]
    return made


def node_daemon(exporter: Sequence[str], scene_agent: Sequence[str]) -> Document:
    """Exporter and scene agent on every GPU node, with these flags beside the usual ones."""
    node = {"name": "NODE_NAME", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}}
    scenes = {"name": "scenes", "mountPath": SCENE_STORE}
    run = {"name": "run", "mountPath": RUN_FOLDER}
    containers = [
        _container(
            "exporter",
            [
                *("exporter", "--kubernetes", "--node=$(NODE_NAME)", f"--scene-cache={SCENE_STORE}"),
                *(f"--gpus-file={RUN_FOLDER}/gpus.json", *exporter),
            ],
            (labels.EXPORTER_PORT_NAME, labels.EXPORTER_PORT),
            env=[node],
            mounts=[scenes, run],
        ),
        _container(
            "scene-agent",
            [
                *("scene-agent", "--node=$(NODE_NAME)", f"--store={SCENE_STORE}"),
                *("--token-file=/etc/token/token", *scene_agent),
            ],
            (labels.SCENE_AGENT_PORT_NAME, labels.SCENE_AGENT_PORT),
            env=[node],
            mounts=[scenes, {"name": "token", "mountPath": "/etc/token"}],
        ),
    ]
    spec = {
        "serviceAccountName": "node",
        "nodeSelector": {NODE_ROLE_LABEL: "gpu"},
        "tolerations": TOLERATE_GPU,
        "terminationGracePeriodSeconds": 3,
        "containers": containers,
        "volumes": [
            {"name": "scenes", "hostPath": {"path": SCENE_STORE}},
            {"name": "run", "hostPath": {"path": RUN_FOLDER}},
            {"name": "token", "secret": {"secretName": TOKEN_SECRET}},
        ],
    }
    return _workload("DaemonSet", labels.NODE_COMPONENT, spec)


def gateway(flags: Sequence[str]) -> Document:
    """Replaced without a lost request, as the chart's is: it serves on until all who ask it know that it goes."""
    made = _component("gateway", ["gateway", "--kubernetes", *flags], ("http", labels.GATEWAY_PORT))
    pod = made["spec"]["template"]["spec"]
    pod["terminationGracePeriodSeconds"] = 75
    pod["containers"][0]["lifecycle"] = {"preStop": {"sleep": {"seconds": 1}}}
    return made


def extender(flags: Sequence[str]) -> Document:
    # Its address is one of this machine, so nobody beyond it can ask.
    return _component("extender", ["extender", "--kubernetes", *flags], ("http", labels.EXTENDER_PORT))


def autoscaler(flags: Sequence[str]) -> Document:
    mount = {"name": "token", "mountPath": "/etc/token"}
    made = _component(
        "autoscaler",
        ["autoscaler", "--kubernetes", "--scene-agent-token-file=/etc/token/token", *flags],
        ("http", labels.AUTOSCALER_PORT),
        mounts=[mount],
    )
    made["spec"]["template"]["spec"]["volumes"] = [{"name": "token", "secret": {"secretName": TOKEN_SECRET}}]
    return made


def pool(spec: PoolSpec) -> Document:
    """The Deployment of renderer pods."""
    slice_ = {f"{labels.MIG_RESOURCE_PREFIX}{PROFILE}": "1"}
    scenes = f"metadata.annotations['{labels.SCENES_ANNOTATION}']"
    ports = {
        labels.HTTP_PORT_NAME: labels.TRITON_HTTP_PORT,
        labels.GRPC_PORT_NAME: labels.TRITON_GRPC_PORT,
        labels.METRICS_PORT_NAME: labels.TRITON_METRICS_PORT,
    }
    container = {
        "name": "renderer",
        "image": "splatfleet-renderer",
        "command": ["tritonserver"],
        "env": [
            *({"name": name, "value": value} for name, value in spec.environment.items()),
            {"name": labels.SCENE_CACHE_ENV, "value": SCENE_STORE},
            {"name": labels.SCENES_ENV, "valueFrom": {"fieldRef": {"fieldPath": scenes}}},
        ],
        "ports": [{"name": name, "containerPort": port} for name, port in ports.items()],
        "volumeMounts": [{"name": "scenes", "mountPath": SCENE_STORE}],
        "readinessProbe": {"httpGet": {"path": "/v2/health/ready", "port": labels.HTTP_PORT_NAME}, "periodSeconds": 1},
        "lifecycle": {"preStop": {"sleep": {"seconds": spec.drain_s}}},
        "resources": {"requests": slice_, "limits": slice_},
    }
    pod: Document = {
        "containers": [container],
        "volumes": [{"name": "scenes", "hostPath": {"path": SCENE_STORE}}],
        "tolerations": [*TOLERATE_GPU, *LEAVE_SILENT_NODE],
        "terminationGracePeriodSeconds": spec.grace_s,
    }
    if spec.scheduler:
        pod["schedulerName"] = spec.scheduler
    if spec.gated:
        pod["schedulingGates"] = [{"name": labels.SCENES_GATE}]
    if spec.priority_class:
        pod["priorityClassName"] = spec.priority_class
    if spec.node_selector:
        pod["nodeSelector"] = dict(spec.node_selector)
    matching = {"app.kubernetes.io/name": spec.name, labels.POOL_LABEL: spec.name}
    annotations = dict(spec.annotations)
    if spec.scenes:
        annotations[labels.SCENES_ANNOTATION] = ",".join(spec.scenes)
    template = {"metadata": {"labels": matching, "annotations": annotations}, "spec": pod}
    return _document(
        "apps/v1",
        "Deployment",
        spec.name,
        spec={
            "replicas": spec.replicas,
            "selector": {"matchLabels": matching},
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}},
            "template": template,
        },
    )


def predictive_autoscaler(name: str, spec: Mapping[str, Any]) -> Document:
    """A PredictiveAutoscaler of the pool of that name; `spec` lacks the target alone."""
    target = {"apiVersion": "apps/v1", "kind": "Deployment", "name": name}
    api = "splatfleet.io/v1alpha1"
    return _document(api, "PredictiveAutoscaler", name, spec={"scaleTargetRef": target, **spec})


def horizontal_pod_autoscaler(
    name: str, limits: tuple[int, int], metric: str, per_pod: float, down_window_s: int = 300, period_s: int = 15
) -> Document:
    """What Kubernetes does alone: so many requests a second a pod, by an external metric; HPA's default steps."""
    target = {"type": "AverageValue", "averageValue": f"{round(1000 * per_pod)}m"}
    source = {"metric": {"name": metric, "selector": {"matchLabels": {"pool": name}}}, "target": target}
    spec = {
        "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": name},
        "minReplicas": limits[0],
        "maxReplicas": limits[1],
        "metrics": [{"type": "External", "external": source}],
        "behavior": {
            "scaleUp": {
                "policies": [
                    {"type": "Pods", "value": 4, "periodSeconds": period_s},
                    {"type": "Percent", "value": 100, "periodSeconds": period_s},
                ]
            },
            "scaleDown": {
                "stabilizationWindowSeconds": down_window_s,
                "policies": [{"type": "Percent", "value": 100, "periodSeconds": period_s}],
            },
        },
    }
    return _document("autoscaling/v2", "HorizontalPodAutoscaler", name, spec=spec)


def _component(name: str, args: Sequence[str], port: tuple[str, int], mounts: Sequence[Document] = ()) -> Document:
    """A Deployment of one pod on the system node."""
    spec = {
        "serviceAccountName": name,
        "nodeSelector": {NODE_ROLE_LABEL: "system"},
        "terminationGracePeriodSeconds": 5,
        "containers": [_container(name, args, port, mounts=mounts)],
    }
    return _workload("Deployment", name, spec)


def _container(
    name: str,
    args: Sequence[str],
    port: tuple[str, int],
    env: Sequence[Document] = (),
    mounts: Sequence[Document] = (),
) -> Document:
    ready = {"httpGet": {"path": "/-/ready", "port": port[0]}, "periodSeconds": 1}
    return {
        "name": name,
        "image": f"splatfleet-{name}",
        "command": ["splatfleet"],
        "args": [*args, f"--listen=0.0.0.0:{port[1]}"],
        "env": list(env),
        "ports": [{"name": port[0], "containerPort": port[1]}],
        "volumeMounts": list(mounts),
        "readinessProbe": ready,
    }


def _workload(kind: str, component: str, pod: Document) -> Document:
    matching = {"app.kubernetes.io/name": "splatfleet", labels.COMPONENT_LABEL: component}
    template = {"metadata": {"labels": matching}, "spec": pod}
    spec: Document = {"selector": {"matchLabels": matching}, "template": template}
    if kind == "Deployment":
        spec["replicas"] = 1
    return _document("apps/v1", kind, component, spec=spec)


def _document(api: str, kind: str, name: str, namespace: str = NAMESPACE, **fields: Any) -> Document:
    metadata = {"name": name, **({"namespace": namespace} if namespace else {})}
    return {"apiVersion": api, "kind": kind, "metadata": metadata, **fields}
