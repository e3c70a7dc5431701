"""The kustomize rendering is the chart's, object by object, and a real API server takes it."""

from __future__ import annotations

import importlib.util
import json
import subprocess
from types import ModuleType
from typing import Any

import pytest
import yaml

from local_fleet.control_plane.binaries import Binaries, BinariesError, find_helm
from local_fleet.control_plane.plane import ControlPlane
from tests.conftest import REPOSITORY
from tests.deploy.conftest import name_of, pod_template
from tests.deploy.foreign_crds import definitions
from tests.deploy.openapi import OpenApi
from tests.deploy.restricted import violations

KUSTOMIZE = REPOSITORY / "deploy" / "kustomize"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location(
        "kustomize_from_chart", REPOSITORY / "scripts/kustomize-from-chart.py"
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def helm_binary() -> str:
    try:
        return str(find_helm())
    except BinariesError as error:
        pytest.skip(str(error))


def build(binaries: Binaries, folder: str) -> dict[Any, Any]:
    done = subprocess.run(
        [str(binaries.program("kubectl")), "kustomize", str(KUSTOMIZE / folder)],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    items = [item for item in yaml.safe_load_all(done.stdout) if item]
    return {(item["kind"], item["metadata"].get("namespace", ""), item["metadata"]["name"]): item for item in items}


def test_committed_files_are_those_of_the_script(script: ModuleType, helm_binary: str) -> None:
    committed = {
        str(path.relative_to(KUSTOMIZE)): path.read_text()
        for path in KUSTOMIZE.rglob("*.yaml")
        if path.name != "values.yaml"
    }
    assert committed == script.files(helm_binary)


@pytest.mark.parametrize("folder", ["base", "overlays/monitored", "overlays/keda"])
def test_kustomize_renders_what_the_chart_renders(
    script: ModuleType, helm_binary: str, control_plane_binaries: Binaries, folder: str
) -> None:
    components = script.OVERLAYS[folder.removeprefix("overlays/")] if folder != "base" else ()
    settings = [setting for component in components for setting in script.COMPONENTS[component]]
    chart = {script.key(item): item for item in [script.home(), *script.render(helm_binary, *settings)]}
    built = build(control_plane_binaries, folder)
    crds = {name for name in built if name[0] == "CustomResourceDefinition"}
    assert len(crds) == 1
    del built[crds.pop()]
    assert built.keys() == chart.keys()
    for name, item in chart.items():
        assert in_one_order(built[name]) == in_one_order(item), name


def in_one_order(value: Any) -> Any:
    """Lists whose order means nothing sorted: what kustomize merges by a key, it appends."""
    if isinstance(value, dict):
        return {name: in_one_order(item) for name, item in value.items()}
    if isinstance(value, list) and all(isinstance(item, dict) and "name" in item for item in value):
        return sorted((in_one_order(item) for item in value), key=lambda item: str(item["name"]))
    return [in_one_order(item) for item in value] if isinstance(value, list) else value


@pytest.mark.parametrize("folder", ["overlays/monitored", "overlays/keda"])
def test_the_api_server_takes_the_overlays(control_plane: ControlPlane, folder: str) -> None:
    items = list(build(control_plane.binaries, folder).values())
    crds = [*definitions(), *(item for item in items if item["kind"] == "CustomResourceDefinition")]
    control_plane.apply(*crds, *(item for item in items if item["kind"] == "Namespace"))
    for crd in crds:
        control_plane.kubectl("wait", "--for=condition=Established", f"crd/{crd['metadata']['name']}", "--timeout=30s")
    body = json.dumps({"apiVersion": "v1", "kind": "List", "items": items})
    said = control_plane.kubectl("apply", "--dry-run=server", "--validate=strict", "-f", "-", stdin=body)
    assert said.count("(server dry run)") == len(items)
    openapi = OpenApi(control_plane.request)
    faults = {name_of(item): openapi.faults(item) for item in items if item["kind"] != "CustomResourceDefinition"}
    assert {name: found for name, found in faults.items() if found} == {}


@pytest.mark.parametrize("folder", ["overlays/monitored", "overlays/keda"])
def test_the_overlays_are_restricted_and_roles_name_what_they_need(
    control_plane_binaries: Binaries, folder: str
) -> None:
    """The chart's tests hold these of its examples; the overlays have values of their own."""
    items = build(control_plane_binaries, folder).values()
    found = {(item["metadata"]["namespace"], text.split(": ", 1)[-1]) for item in items
             if (template := pod_template(item)) for text in violations(template["spec"])}  # fmt: skip
    assert {namespace for namespace, _ in found} == {"splatfleet-scenes"}
    assert {text for _, text in found} <= {
        "volume scenes is a hostPath", "runAsNonRoot", "runAsUser is 0", "adds CHOWN"
    }  # fmt: skip
    rules = [rule for item in items if item["kind"] in ("Role", "ClusterRole") for rule in item["rules"]]
    assert rules
    assert not any("*" in [*rule["apiGroups"], *rule["resources"], *rule["verbs"]] for rule in rules)
    assert not any({"secrets", "pods/exec"} & set(rule["resources"]) for rule in rules)
