#!/usr/bin/env python3
"""Write deploy/kustomize from the chart, so that the two cannot differ: `scripts/kustomize-from-chart.py [HELM]`.

The base is the chart with deploy/kustomize/values.yaml; a component is what more values add to it or change in it.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

REPOSITORY = Path(__file__).resolve().parent.parent
KUSTOMIZE = REPOSITORY / "deploy" / "kustomize"
RELEASE = NAMESPACE = "splatfleet"
COMPONENTS = {
    "monitoring": ("monitoring.monitors=true", "monitoring.rules=true", "monitoring.dashboards=true"),
    "network-policies": ("networkPolicy.enabled=true",),
    "keda": ("scaling.mode=keda",),
}
OVERLAYS = {
    "monitored": ("monitoring", "network-policies"),
    "keda": ("monitoring", "keda"),
}
HELM_LABELS = ("helm.sh/chart", "app.kubernetes.io/managed-by")
HEAD = "# Made by scripts/kustomize-from-chart.py; a test compares the two.\n"

Object = dict[str, Any]


def render(helm: Path | str, *settings: str) -> list[Object]:
    """What the chart makes, without what belongs to Helm alone: its labels and its test."""
    flags = [part for setting in settings for part in ("--set", setting)]
    command = [str(helm), "template", RELEASE, str(REPOSITORY / "deploy" / "chart"), "--namespace", NAMESPACE]
    command += ["--skip-tests", "--values", str(KUSTOMIZE / "values.yaml"), *flags]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    return [normalised(item) for item in yaml.safe_load_all(done.stdout) if item]


def normalised(item: Object) -> Object:
    """The object without Helm's labels, also in the templates in it."""
    for name in HELM_LABELS:
        item["metadata"].get("labels", {}).pop(name, None)
        template = item.get("spec", {}).get("template", {}) if isinstance(item.get("spec"), dict) else {}
        template.get("metadata", {}).get("labels", {}).pop(name, None)
    return item


def key(item: Object) -> tuple[str, str, str]:
    return (item["kind"], item["metadata"].get("namespace", ""), item["metadata"]["name"])


def home() -> Object:
    """The namespace of the release, which helm makes by itself."""
    labels = {"pod-security.kubernetes.io/enforce": "restricted", "pod-security.kubernetes.io/warn": "restricted"}
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE, "labels": labels}}


def files(helm: Path | str) -> dict[str, str]:
    """Every file below deploy/kustomize but the values, by its path."""
    base = render(helm)
    made = {
        "base/resources.yaml": _dump([home(), *base]),
        "base/kustomization.yaml": _kustomization("Kustomization", resources=["../../chart/crds", "resources.yaml"]),
    }
    for name, settings in COMPONENTS.items():
        made |= _component(name, base, render(helm, *settings))
    for name, components in OVERLAYS.items():
        paths = [f"../../components/{component}" for component in components]
        made[f"overlays/{name}/kustomization.yaml"] = _kustomization(
            "Kustomization", resources=["../../base"], components=paths
        )
    return made


def _component(name: str, base: list[Object], whole: list[Object]) -> dict[str, str]:
    before = {key(item): item for item in base}
    gone = before.keys() - {key(item) for item in whole}
    if gone:
        raise SystemExit(f"component {name} would take {sorted(gone)} away; a component only adds and changes")
    added = [item for item in whole if key(item) not in before]
    changed = [item for item in whole if key(item) in before and before[key(item)] != item]
    fields: dict[str, Any] = {"resources": ["resources.yaml"]} if added else {}
    made = {f"components/{name}/resources.yaml": _dump(added)} if added else {}
    if changed:
        fields["patches"] = [{"path": "patches.yaml"}]
        made[f"components/{name}/patches.yaml"] = _dump(changed)
    made[f"components/{name}/kustomization.yaml"] = _kustomization("Component", **fields)
    return made


def _kustomization(kind: str, **fields: Any) -> str:
    version = "v1beta1" if kind == "Kustomization" else "v1alpha1"
    return HEAD + yaml.safe_dump(
        {"apiVersion": f"kustomize.config.k8s.io/{version}", "kind": kind, **fields}, sort_keys=False
    )


class _Dumper(yaml.SafeDumper):
    """Texts of several lines as blocks, no anchors."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


_Dumper.add_representer(
    str,
    lambda dumper, text: dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None),
)


def _dump(items: list[Object]) -> str:
    ordered = sorted(
        items, key=lambda item: (item["kind"] not in ("Namespace", "CustomResourceDefinition"), *key(item))
    )
    return HEAD + yaml.dump_all(ordered, Dumper=_Dumper, sort_keys=False, width=1_000_000)


def _helm() -> str:
    """That of `make control-plane`, else the one on PATH."""
    sys.path.insert(0, str(REPOSITORY))
    from local_fleet.control_plane.binaries import BinariesError, find_helm

    try:
        return str(find_helm())
    except BinariesError:
        return "helm"


def main() -> None:
    helm = sys.argv[1] if len(sys.argv) > 1 else _helm()
    for name, text in files(helm).items():
        path = KUSTOMIZE / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        print(path.relative_to(REPOSITORY))


if __name__ == "__main__":
    main()
