"""Prints the reference page of the custom resource, made of its schema."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

CRD = Path(__file__).resolve().parents[1] / "deploy/chart/crds/splatfleet.io_predictiveautoscalers.yaml"
HEAD = """# PredictiveAutoscaler

`splatfleet.io/v1alpha1`, short name `pa`. Made by `scripts/crd-reference.py` from
[its definition](../deploy/chart/crds/splatfleet.io_predictiveautoscalers.yaml);
[the autoscaler](autoscaler.md) says what the settings do together,
[the autoscaler on Kubernetes](autoscaler-kubernetes.md) what becomes of a decision.

```yaml
apiVersion: splatfleet.io/v1alpha1
kind: PredictiveAutoscaler
metadata:
  name: renderer
spec:
  scaleTargetRef: {name: renderer}
  minReplicas: 1
  maxReplicas: 12
  objective: {maxQueueWaitSeconds: 0.5, violationRatio: 0.01}
```
"""


def main() -> None:
    version = yaml.safe_load(CRD.read_text())["spec"]["versions"][0]
    properties = version["schema"]["openAPIV3Schema"]["properties"]
    print(HEAD)
    for part in ("spec", "status"):
        print(f"## {part}\n\n| field | type | allowed | |\n|---|---|---|---|")
        required = set(properties[part].get("required", ()))
        for path, schema, needed in _rows(properties[part]["properties"], "", required):
            note = schema.get("description", "").replace("|", "\\|") + (" **Required.**" if needed else "")
            print(f"| `{path}` | {_type(schema)} | {_allowed(schema)} | {note} |")
        print()
    print("## Rules over several fields\n")
    for path, message in _rules(properties["spec"], "spec"):
        print(f"- `{path}`: {message}.")


def _rows(properties: dict[str, Any], prefix: str, required: set[str]) -> Iterator[tuple[str, dict[str, Any], bool]]:
    for name, schema in properties.items():
        inner = schema if schema["type"] == "object" else schema.get("items", {})
        path = prefix + name + ("[]" if inner is not schema and "properties" in inner else "")
        yield path, schema, name in required
        yield from _rows(inner.get("properties", {}), f"{path}.", set(inner.get("required", ())))


def _type(schema: dict[str, Any]) -> str:
    if schema["type"] == "array":
        return f"list of {_type(schema['items'])}"
    return str(schema.get("format", schema["type"]))


def _allowed(schema: dict[str, Any]) -> str:
    schema = schema.get("items", schema) if "enum" in schema.get("items", {}) else schema
    if "enum" in schema:
        return ", ".join(f"`{value}`" for value in schema["enum"])
    low, high = schema.get("minimum"), schema.get("maximum")
    said = []
    if low is not None:
        said.append(f"{'>' if schema.get('exclusiveMinimum') else '≥'} {low}")
    if high is not None:
        said.append(f"{'<' if schema.get('exclusiveMaximum') else '≤'} {high}")
    if schema.get("nullable"):
        said.append("null")
    return ", ".join(said)


def _rules(schema: dict[str, Any], path: str) -> Iterator[tuple[str, str]]:
    for rule in schema.get("x-kubernetes-validations", ()):
        yield path, rule["message"]
    for name, inner in schema.get("properties", {}).items():
        yield from _rules(inner, f"{path}.{name}")
    if "items" in schema:
        yield from _rules(schema["items"], f"{path}[]")


if __name__ == "__main__":
    main()
