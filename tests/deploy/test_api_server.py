"""What a real API server says of everything that the chart renders: schema, Pod Security, and who may do what."""

from __future__ import annotations

import base64
import copy
import itertools
import json
import os
import re
import secrets
import time
import urllib.error
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from autoscaler.decision import PlaceAsk
from autoscaler.placeholders import Style, Wanted, document
from autoscaler.resource import parse_resource
from local_fleet.control_plane.plane import ControlPlane, ControlPlaneError
from tests.deploy.conftest import EXAMPLES, FRONTS, NAMESPACE, RELEASE, Helm, Object, containers, name_of, pod_template
from tests.deploy.foreign_crds import definitions
from tests.deploy.openapi import OpenApi
from tests.kubernetes.fleet import eventually

SCENES = f"{NAMESPACE}-scenes"
GOLDEN = Path(__file__).parent / "golden"


@pytest.fixture(scope="module")
def cluster(control_plane: ControlPlane, helm: Helm) -> ControlPlane:
    """The control plane with the namespaces of the chart and the kinds that it may use."""
    crds = [item for item in helm.render("") if item["kind"] == "CustomResourceDefinition"]
    enforce = {"pod-security.kubernetes.io/enforce": "restricted"}
    spaces: list[Object] = [
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE, "labels": enforce}},
        *(item for item in helm.render("") if item["kind"] == "Namespace"),
    ]
    control_plane.apply(*crds, *definitions(), *spaces)
    for crd in (*crds, *definitions()):
        control_plane.kubectl("wait", "--for=condition=Established", f"crd/{crd['metadata']['name']}", "--timeout=30s")
    return control_plane


@pytest.fixture(scope="module")
def openapi(cluster: ControlPlane) -> OpenApi:
    return OpenApi(cluster.request)


def dry_run(cluster: ControlPlane, *items: Object) -> str:
    body = json.dumps({"apiVersion": "v1", "kind": "List", "items": items})
    return cluster.kubectl("apply", "--dry-run=server", "--validate=strict", "-f", "-", stdin=body)


@pytest.mark.parametrize("example", ["", *EXAMPLES])
def test_the_api_server_takes_every_object(cluster: ControlPlane, openapi: OpenApi, helm: Helm, example: str) -> None:
    items = [item for item in helm.render(example) if item["kind"] != "CustomResourceDefinition"]
    said = dry_run(cluster, *items)
    assert said.count("(server dry run)") == len(items)
    faults = {name_of(item): openapi.faults(item) for item in items}
    assert {name: found for name, found in faults.items() if found} == {}


@pytest.mark.parametrize("front", FRONTS)
def test_the_api_server_takes_every_front(cluster: ControlPlane, openapi: OpenApi, helm: Helm, front: str) -> None:
    kinds = ("Service", "Ingress", "HTTPRoute")
    items = [item for item in helm.render("h100-mig", "--values", f"examples/fronts/{front}.yaml")
             if item["kind"] in kinds and item["metadata"]["name"].endswith("gateway")]  # fmt: skip
    assert dry_run(cluster, *items).count("(server dry run)") == len(items)
    assert [fault for item in items for fault in openapi.faults(item)] == []


def test_the_strict_checks_can_fail(cluster: ControlPlane, openapi: OpenApi, helm: Helm) -> None:
    gateway = next(item for item in helm.render("") if item["metadata"]["name"].endswith("-gateway")
                   and item["kind"] == "Deployment")  # fmt: skip
    wrong = copy.deepcopy(gateway)
    wrong["spec"]["template"]["spec"]["containers"][0]["readinesProbe"] = {}
    with pytest.raises(ControlPlaneError, match="readinesProbe"):
        dry_run(cluster, wrong)
    assert any("readinesProbe" in fault for fault in openapi.faults(wrong))
    wrong = copy.deepcopy(gateway)
    wrong["spec"]["replicas"] = "two"
    assert openapi.faults(wrong) == ["spec.replicas: 'two' is no integer"]
    autoscaler = next(item for item in helm.render("") if item["kind"] == "PredictiveAutoscaler")
    wrong = copy.deepcopy(autoscaler)
    wrong["spec"]["minReplicas"] = 99
    with pytest.raises(ControlPlaneError, match="minReplicas is above maxReplicas"):
        dry_run(cluster, wrong)


@pytest.mark.parametrize("example", ["h100-mig", "keda-h200", "ephemeral-l40s"])
def test_helm_installs_as_the_server_sees_it(cluster: ControlPlane, helm: Helm, example: str, tmp_path: Path) -> None:
    environment = os.environ | {"KUBECONFIG": str(cluster.kubeconfig), "HOME": str(tmp_path)}
    done = helm.run(
        "install", RELEASE, ".", "--dry-run=server", "--namespace", NAMESPACE, "--values", f"examples/{example}.yaml",
        "--set", "sceneCache.createNamespace=false",
        environment=environment,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "Splatfleet 0.1.0 is installed" in done.stdout
    assert "kind: PodMonitor" in done.stdout


@pytest.mark.parametrize("example", ["", *EXAMPLES])
def test_pod_security_admission_takes_every_pod(cluster: ControlPlane, helm: Helm, example: str) -> None:
    """Each pod asks for admission in a namespace that enforces "restricted"; the scene cache alone is refused."""
    refused = {}
    for item in helm.render(example):
        template = pod_template(item)
        if template is None:
            continue
        metadata = {"name": f"ask-{item['metadata']['name']}"[:63], "namespace": NAMESPACE}
        spec = {**template["spec"], "serviceAccountName": "default"}
        spec.pop("priorityClassName", None)
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}
        try:
            cluster.request("POST", f"/api/v1/namespaces/{NAMESPACE}/pods?dryRun=All", pod)
        except urllib.error.HTTPError as error:
            refused[item["metadata"]["name"]] = error.msg
    if example == "ephemeral-l40s":
        assert refused == {}
        return
    assert all("hostPath" in said for said in refused.values()), refused
    spaces = {item["metadata"].get("namespace") for item in helm.render(example) if item["metadata"]["name"] in refused
              and pod_template(item)}  # fmt: skip
    assert spaces == {SCENES}


@pytest.fixture(scope="module")
def granted(cluster: ControlPlane, helm: Helm) -> Iterator[ControlPlane]:
    kinds = ("ServiceAccount", "Role", "RoleBinding", "ClusterRole", "ClusterRoleBinding")
    items = [item for item in helm.render("h100-mig") if item["kind"] in kinds]
    cluster.apply(*items)
    yield cluster
    body = json.dumps({"apiVersion": "v1", "kind": "List", "items": items})
    cluster.kubectl("delete", "-f", "-", "--wait=false", stdin=body)


@pytest.mark.parametrize(
    ("component", "home"),
    [("node", SCENES), ("renderer", SCENES), ("extender", NAMESPACE), ("autoscaler", NAMESPACE),
     ("gateway", NAMESPACE), ("scheduler", NAMESPACE)],
)  # fmt: skip
def test_what_each_component_may_do(granted: ControlPlane, component: str, home: str) -> None:
    """As `kubectl auth can-i --list` says it, in the namespace of the renderers and in that of the release."""
    account = f"system:serviceaccount:{home}:{RELEASE}-splatfleet-{component}"
    everybody = rules(granted, "system:serviceaccount:default:nobody", SCENES)
    found = {space: sorted(rules(granted, account, space) - everybody) for space in (NAMESPACE, SCENES, "default")}
    golden = GOLDEN / f"can-i-{component}.yaml"
    if os.environ.get("SPLATFLEET_WRITE_GOLDEN"):
        golden.parent.mkdir(exist_ok=True)
        golden.write_text(yaml.safe_dump(found, sort_keys=True))
    assert found == yaml.safe_load(golden.read_text())


def rules(cluster: ControlPlane, account: str, namespace: str) -> set[str]:
    """One line a rule; what any account may do is in it, too."""
    said = cluster.kubectl("auth", "can-i", "--list", "--no-headers", "-n", namespace, "--as", account,
                           "--as-group", "system:serviceaccounts", "--as-group", "system:authenticated")  # fmt: skip
    return {_in_order(" ".join(line.split())) for line in said.splitlines() if line.strip()}


def _in_order(line: str) -> str:
    """The verbs sorted: the server joins rules in no fixed order."""
    return re.sub(r"\[([^]]*)\]$", lambda found: f"[{' '.join(sorted(found[1].split()))}]", line)


def test_an_account_may_not_do_more(granted: ControlPlane) -> None:
    account = f"system:serviceaccount:{NAMESPACE}:{RELEASE}-splatfleet-autoscaler"
    refused: list[tuple[str, ...]] = [
        ("get", "secrets"), ("delete", "pods"), ("create", "pods/exec"), ("patch", "deployments"),
        ("patch", "deployments/scale", "somebody-elses"), ("patch", "nodes"),
    ]  # fmt: skip
    for verb, resource, *name in refused:
        with pytest.raises(ControlPlaneError):
            granted.kubectl("auth", "can-i", verb, resource, *name, "-n", SCENES, "--as", account)
    allowed = f"deployments.apps/{RELEASE}-splatfleet-renderer"
    assert granted.kubectl("auth", "can-i", "patch", allowed, "--subresource=scale", "-n", SCENES, "--as", account)


@pytest.fixture(scope="module")
def labelling(cluster: ControlPlane, helm: Helm) -> Iterator[ControlPlane]:
    """The roles and the limits on patches of nodes, with labels of scenes on; and a node."""
    kinds = ("ServiceAccount", "ClusterRole", "ClusterRoleBinding", "ValidatingAdmissionPolicy",
             "ValidatingAdmissionPolicyBinding")  # fmt: skip
    flags = "nameOverride=labels,scheduler.sceneLabels.enabled=true"
    items = [item for item in helm.render("", "--set", flags) if item["kind"] in kinds]
    node = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "patched", "labels": {"zone": "a"}}}
    cluster.apply(*items, node)
    yield cluster
    body = json.dumps({"apiVersion": "v1", "kind": "List", "items": [*items, node]})
    cluster.kubectl("delete", "-f", "-", "--wait=false", stdin=body)


def test_the_autoscaler_may_create_and_delete_placeholders_alone(cluster: ControlPlane, helm: Helm) -> None:
    """With --set autoscaler.placeholders.enabled=true: what our own code makes passes, anything else is refused."""
    kinds = ("ServiceAccount", "Role", "RoleBinding", "PriorityClass", "ValidatingAdmissionPolicy",
             "ValidatingAdmissionPolicyBinding")  # fmt: skip
    rendered = helm.render("", "--set", "nameOverride=held,autoscaler.placeholders.enabled=true")
    items = [item for item in rendered if item["kind"] in kinds]
    flags = next(one for item in rendered for one in containers(item) if one["name"] == "autoscaler")["args"]
    style = Style(*(next(word.partition("=")[2] for word in flags if word.startswith(f"--placeholder{end}="))
                    for end in ("s", "-image")))  # fmt: skip
    owned = f"held-{secrets.token_hex(3)}"  # a test that is played again finds what the last one left
    spec = {"scaleTargetRef": {"name": "renderer"}, "maxReplicas": 9}
    owner = {"apiVersion": "splatfleet.io/v1alpha1", "kind": "PredictiveAutoscaler", "spec": spec,
             "metadata": {"name": owned, "namespace": SCENES}}  # fmt: skip
    # It is there: of an owner that is not, Kubernetes deletes the pods within moments.
    made = cluster.request("POST", f"/apis/splatfleet.io/v1alpha1/namespaces/{SCENES}/predictiveautoscalers", owner)
    ask = Wanted(parse_resource(made, 0.0), PlaceAsk(1, 600.0, 30.0))
    template = {"spec": {"containers": [{"name": "r", "resources": {"limits": {"cpu": "1"}}}]}}
    good = document(f"{owned}-place-0", template, ask, style, 0.0)
    cluster.apply(*items)
    account = f"system:serviceaccount:{NAMESPACE}:{RELEASE}-held-autoscaler"

    def create(change: Callable[[Object], object], *flags: str) -> str:
        pod = copy.deepcopy(good)
        change(pod)
        return cluster.kubectl("create", "-n", SCENES, "-f", "-", "--as", account, *flags, stdin=json.dumps(pod))

    def refuses(change: Callable[[Object], object]) -> bool:
        try:
            create(change, "--dry-run=server")
        except ControlPlaneError as error:
            return "may create" in str(error)
        return False

    eventually(lambda: refuses(lambda pod: pod["metadata"]["labels"].clear()), 20, "a policy holds after some moments")
    refused: list[Callable[[Object], object]] = [
        lambda pod: pod["metadata"]["labels"].update({"splatfleet.io/pool": "renderer"}),
        lambda pod: pod["spec"].pop("priorityClassName"),
        lambda pod: pod["spec"].pop("activeDeadlineSeconds"),
        lambda pod: pod["spec"].pop("automountServiceAccountToken"),
        lambda pod: pod["spec"].update(volumes=[{"name": "v", "hostPath": {"path": "/"}}]),
        lambda pod: pod["spec"]["containers"][0].update(image="another"),
        lambda pod: pod["spec"]["containers"][0].update(command=["sh"]),
    ]
    assert [number for number, change in enumerate(refused) if not refuses(change)] == []
    assert f"{owned}-place-0" in create(lambda _: None)
    other = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "other", "namespace": SCENES}}
    cluster.apply({**other, "spec": {"containers": [{"name": "c", "image": "i"}]}})
    with pytest.raises(ControlPlaneError, match="placeholders alone"):
        cluster.kubectl("delete", "pod", "other", "-n", SCENES, "--as", account)
    cluster.kubectl("delete", "pod", f"{owned}-place-0", "-n", SCENES, "--wait=false", "--as", account)
    cluster.kubectl("delete", "predictiveautoscaler", owned, "-n", SCENES, "--wait=false")
    for item in (*items, other):
        cluster.kubectl("delete", "-f", "-", "--wait=false", stdin=json.dumps(item))


@pytest.mark.parametrize(
    ("component", "allowed", "refused"),
    [
        ("autoscaler", {"metadata": {"labels": {"scene.splatfleet.io/garden": "disk"}}}, [
            {"spec": {"unschedulable": True}},
            {"metadata": {"labels": {"zone": "b"}}},
            {"metadata": {"labels": {"zone": None}}},
            {"metadata": {"annotations": {"splatfleet.io/freed": "1"}}},
        ]),
        ("extender", {"metadata": {"annotations": {"splatfleet.io/freed": "1"}}}, [
            {"spec": {"taints": [{"key": "a", "effect": "NoExecute"}]}},
            {"metadata": {"labels": {"scene.splatfleet.io/knot": "disk"}}},
            {"metadata": {"annotations": {"somebody.else/s": "1"}}},
        ]),
    ],
)  # fmt: skip
def test_a_node_is_patched_in_the_fields_that_are_meant(
    labelling: ControlPlane, component: str, allowed: Object, refused: list[Object]
) -> None:
    account = f"system:serviceaccount:{NAMESPACE}:{RELEASE}-labels-{component}"

    def patch(change: Object) -> str:
        return labelling.kubectl("patch", "node", "patched", "--type=merge", "-p", json.dumps(change), "--as", account)

    def refuses(change: Object) -> bool:
        try:
            patch(change)
        except ControlPlaneError as error:
            return re.search("may (not )?change", str(error)) is not None
        return False

    numbers = itertools.count()  # a patch that changes nothing is refused by nobody
    foreign = lambda: {"metadata": {"annotations": {"example.com/number": str(next(numbers))}}}  # noqa: E731
    eventually(lambda: refuses(foreign()), 20, "a policy holds some moments after it was made")
    assert "patched" in patch(allowed)
    assert [change for change in refused if not refuses(change)] == []


def test_certificates_are_kept_and_made_anew_in_the_last_third_of_their_time(
    cluster: ControlPlane, helm: Helm, tmp_path: Path
) -> None:
    from cryptography import x509

    name = "aged"
    owned = {"meta.helm.sh/release-name": name, "meta.helm.sh/release-namespace": NAMESPACE}
    made = yaml.safe_load_all(helm.run("template", name, ".", "--namespace", NAMESPACE).stdout)
    secrets = [item for item in made if item and item["kind"] == "Secret" and item["type"] == "kubernetes.io/tls"]
    aged = f"{name}-splatfleet-monitoring-tls"
    for item in secrets:
        notes = item["metadata"].get("annotations", {})
        assert bool(notes) != item["metadata"]["name"].endswith("-ca")
        if item["metadata"]["name"] == aged:
            notes = {**notes, "splatfleet.io/renew-after": str(int(time.time()) - 1)}
        item["metadata"]["annotations"] = {**notes, **owned}
    cluster.apply(*secrets)
    environment = os.environ | {"KUBECONFIG": str(cluster.kubeconfig), "HOME": str(tmp_path)}
    done = helm.run("install", name, ".", "--dry-run=server", "--namespace", NAMESPACE, "--set",
                    "sceneCache.createNamespace=false", environment=environment)  # fmt: skip
    cluster.kubectl("delete", "secret", "-n", NAMESPACE, *(item["metadata"]["name"] for item in secrets))
    assert done.returncode == 0, done.stderr
    rendered = {match[1]: match[2] for match in re.finditer(
        r"kind: Secret\nmetadata:\n  name: (\S+-tls)\n(?:.*\n)*?  tls\.crt: (\S+)\n", done.stdout)}  # fmt: skip
    before = {item["metadata"]["name"]: item["data"]["tls.crt"] for item in secrets}
    assert {name for name, found in rendered.items() if found != before[name]} == {aged}
    authority = x509.load_pem_x509_certificate(base64.b64decode(before[f"{name}-splatfleet-ca"]))
    x509.load_pem_x509_certificate(base64.b64decode(rendered[aged])).verify_directly_issued_by(authority)


def test_every_kind_of_the_examples_was_seen(helm: Helm) -> None:
    seen: set[Any] = {item["kind"] for example in EXAMPLES for item in helm.render(example)}
    assert {kind["spec"]["names"]["kind"] for kind in definitions()} <= seen
