"""The chart, rendered by a real helm with each of its example values."""

from __future__ import annotations

import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from local_fleet.control_plane.binaries import BinariesError, find_helm
from tests.conftest import REPOSITORY

CHART = REPOSITORY / "deploy" / "chart"
FRONTS = sorted(path.stem for path in (CHART / "examples" / "fronts").glob("*.yaml"))
EXAMPLES = sorted(path.stem for path in (CHART / "examples").glob("*.yaml"))
RELEASE, NAMESPACE = "try", "fleet"

Object = dict[str, Any]


class Helm:
    """helm on the chart of this repository."""

    def __init__(self, binary: Path) -> None:
        self._binary = binary
        self.render = cache(self._render)

    def run(self, *arguments: str, environment: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(self._binary), *arguments], cwd=CHART, capture_output=True, text=True, timeout=120, check=False,
            env=environment,
        )  # fmt: skip

    def template(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return self.run("template", RELEASE, ".", "--namespace", NAMESPACE, "--include-crds", *arguments)

    def _render(self, example: str = "", *arguments: str) -> tuple[Object, ...]:
        values = ("--values", f"examples/{example}.yaml") if example else ()
        done = self.template(*values, *arguments)
        assert done.returncode == 0, done.stderr
        return tuple(item for item in yaml.safe_load_all(done.stdout) if item)


@pytest.fixture(scope="session")
def helm() -> Helm:
    """helm; the test skips where it was not built."""
    try:
        return Helm(find_helm())
    except BinariesError as error:
        pytest.skip(str(error))


def name_of(item: Object) -> str:
    return f"{item['kind']} {item['metadata'].get('namespace', '')}/{item['metadata']['name']}"


def pod_template(item: Object) -> Object | None:
    """The pod that an object makes: its metadata and spec; None for what makes none."""
    match item["kind"]:
        case "Pod":
            return item
        case "Deployment" | "DaemonSet" | "Job":
            template: Object = item["spec"]["template"]
            return template
    return None


def containers(item: Object) -> list[Object]:
    template = pod_template(item)
    if template is None:
        return []
    found: list[Object] = [*template["spec"].get("initContainers", ()), *template["spec"]["containers"]]
    return found
