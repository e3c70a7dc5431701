"""`helm install` into a real control plane: what the chart renders runs, with its own rights, and closes the loop."""

from __future__ import annotations

import json
import math
import os
import re
import shlex
import shutil
import ssl
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from fleet import labels
from local_fleet.control_plane.plane import ControlPlane
from tests.conftest import REPOSITORY
from tests.deploy import prometheus_operator
from tests.deploy.conftest import Helm
from tests.deploy.release import Release, installed
from tests.monitoring.expressions import filled
from tests.monitoring.test_dashboards_live import BOARDS, NOT_HERE

pytestmark = [pytest.mark.triton, pytest.mark.prometheus, pytest.mark.timeout(290)]

NAME = "live"
CAMERA = {"view_matrix": [1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 3, 0, 0, 0, 1],
          "projection_matrix": [2, 0, 0, 0, 0, 2, 0, 0, 0, 0, 1, -0.01, 0, 0, 1, 0], "size": [64, 64]}  # fmt: skip
VALUES: dict[str, Any] = {
    "gpuPreset": "h100",
    "scheduler": {"mode": "second", "replicas": 1, "sceneLabels": {"enabled": True, "most": 8}},
    "extender": {"replicas": 1},
    "gateway": {"replicas": 1, "holdSeconds": 30},
    "autoscaler": {"replicas": 1, "intervalSeconds": 1, "recorded": False, "binSeconds": 5,
                   "prices": {"reserved": 0.65, "on-demand": 1.0}},
    # Only root can give a folder away; elsewhere the node is prepared.
    "sceneCache": {"capacityBytes": 2_000_000_000, "prepare": os.geteuid() == 0},
    "node": {"nodeSelector": {"nvidia.com/gpu.present": "true"}},
    "renderer": {"rasterizer": "cpu", "cpu": "100m", "memory": "256Mi", "drainSeconds": 1, "gracePeriodSeconds": 15},
    "pools": {"renderer": {"minReplicas": 1, "maxReplicas": 2, "budgetBytes": 100_000_000, "scenes": ["knot"],
                           "defaultScene": "knot"}},
}  # fmt: skip


@pytest.fixture(scope="module")
def release(
    control_plane: ControlPlane,
    helm: Helm,
    prometheus_tool: Callable[[str], str],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Release]:
    folder = tmp_path_factory.mktemp("install")
    denied = refusals(control_plane)
    with installed(control_plane, helm, prometheus_tool("prometheus"), folder, NAME, VALUES) as running:
        yield running
        assert refusals(control_plane) == denied, "the API server has refused somebody while the release ran"


def refusals(plane: ControlPlane) -> dict[str, float]:
    """How often the API server has said 403, by what was asked for."""
    text = plane.kubectl("get", "--raw", "/metrics")
    return {line.rsplit(" ", 1)[0]: float(line.rsplit(" ", 1)[1]) for line in text.splitlines()
            if line.startswith("apiserver_request_total{") and 'code="403"' in line}  # fmt: skip


def test_a_visitor_gets_a_frame(release: Release) -> None:
    url = f"http://{release.address('gateway')}:{labels.GATEWAY_PORT}/v1/render"
    answer = httpx2.post(url, json={"scene": "knot", **CAMERA}, trust_env=False, timeout=60)
    assert answer.status_code == 200, answer.text
    assert answer.content[:2] == b"\xff\xd8", "a JPEG"


def test_the_second_scheduler_asked_the_extender(release: Release) -> None:
    pod = release.pods("renderer-renderer", release.scenes)[0]
    assert pod["spec"]["schedulerName"] == "splatfleet"
    assert pod["spec"]["nodeName"].startswith(f"{NAME}-gpu")
    events = release.ask(f"/api/v1/namespaces/{release.scenes}/events")["items"]
    placed = [event for event in events if event["reason"] == "Scheduled"
              and event["involvedObject"]["name"] == pod["metadata"]["name"]]  # fmt: skip
    assert [event["reportingComponent"] for event in placed] == ["splatfleet"]
    query = 'splatfleet_extender_requests_total{outcome="ok",verb="filter"}'
    asked = release.until(lambda: release.sample(query), 20, query)
    assert float(asked[0]["value"][1]) >= 1


def test_nodes_say_which_scenes_lie_on_their_disks(release: Release) -> None:
    node = release.pods("renderer-renderer", release.scenes)[0]["spec"]["nodeName"]
    label = f"{labels.SCENE_LABEL_PREFIX}knot"
    found = lambda: release.ask(f"/api/v1/nodes/{node}")["metadata"]["labels"].get(label)  # noqa: E731
    assert release.until(found, 30, label) == labels.SCENE_ON_DISK


def test_a_stranger_gets_no_word_from_the_extender(release: Release) -> None:
    stranger = httpx2.Client(verify=ssl._create_unverified_context(), trust_env=False)
    with stranger, pytest.raises(httpx2.HTTPError):
        stranger.get(f"https://{release.address('extender')}:{labels.EXTENDER_PORT}/metrics")
    said = lambda: [text for name, text in release.logs().items() if name.endswith("extender.log")]  # noqa: E731
    release.until(lambda: '"outcome":"denied"' in "".join(said()), 10, "an audit line")


def test_prometheus_reaches_everything_that_a_monitor_names(release: Release) -> None:
    """Through the rendered monitors, with the rendered client certificate; and the rules of the chart are loaded."""
    wanted = {"gateway/http", "autoscaler/metrics", "extender/https", "node/exporter", "node/scene-agent",
              "renderer/metrics"}  # fmt: skip

    def up() -> set[str]:
        found = release.sample("up == 1")
        return {"/".join(row["metric"]["job"].split("/")[2:]).removeprefix(f"{NAME}-splatfleet-") for row in found}

    release.until(lambda: up() >= wanted and not release.sample("up == 0"), 30, str(wanted))
    rules = httpx2.get(f"{release.prometheus}/api/v1/rules", trust_env=False, timeout=10).json()["data"]["groups"]
    assert {group["name"] for group in rules} >= {"splatfleet.recordings"}
    assert [rule for group in rules for rule in group["rules"] if rule["health"] == "err"] == []


def test_helm_test_passes(release: Release) -> None:
    done = release.helm("test", NAME, "--timeout", "60s")
    assert done.returncode == 0, f"{done.stderr}\n{release.told()}"


# Commands of the documents: what makes of them a try of this release, or why none is made.
TRIED = {
    "helm install": "with --dry-run=server of its own, in test_api_server",
    "helm test": "above",
    "helm upgrade": ["--dry-run=server"],
    "kubectl apply --server-side": ["--dry-run=server"],
    "kubectl create secret": ["--dry-run=server"],
    "kubectl get": [],
    "kubectl label node": ["--dry-run=server"],
    "kubectl taint node": ["--dry-run=server"],
    "kubectl port-forward": "there is no kubelet that forwards",
    "splatfleet scene publish": "tests/scene_path publishes to an S3 server",
    "docker": "there is no engine",
    "for component in": "there is no engine",
    "done": "there is no engine",
    "SPLATFLEET_PROMETHEUS_URL=": "tests/monitoring/test_grafana.py, where there is a Grafana",
}


@pytest.mark.parametrize("page", ["install", "operations"])
def test_the_commands_of_a_page_are_taken(release: Release, page: str, tmp_path: Path) -> None:
    (tmp_path / "aws.env").write_text("AWS_ACCESS_KEY_ID=a\n")
    (tmp_path / "tokens.json").write_text("{}")
    names = {"splatfleet": NAME, "splatfleet-scenes": release.scenes, "NODE": f"{NAME}-parts"}
    files = {name: f"{tmp_path}/{name}" for name in ("aws.env", "tokens.json")}
    tried = 0
    for block in blocks(page):
        before: list[str] = []  # what the upgrades above in a block have set
        for command in block:
            key = next((key for key in TRIED if command.startswith(key)), None)
            assert key is not None, f"{command}: say in TRIED how it is tried, or why not"
            more = TRIED[key]
            if isinstance(more, str):
                continue
            for name, path in files.items():
                command = command.replace(name, path)
            words = [names.get(word, word).replace("DIGEST", "sha256:" + 64 * "0") for word in shlex.split(command)]
            words = [str(REPOSITORY / word) if word.startswith("deploy/") else word for word in words]
            if key == "helm upgrade":
                own = [word for word in words if words[words.index(word) - 1] == "--set"]
                done = release.helm(*words[1:4], *more, "--reuse-values",
                                    *(flag for word in (*before, *own) for flag in ("--set", word)))  # fmt: skip
                assert done.returncode == 0, f"{command}: {done.stderr}"
                before += own
            else:
                assert release.plane.kubectl(*words[1:], *more), command
            tried += 1
    assert tried >= 4


def blocks(page: str) -> list[list[str]]:
    """Every command of the page's shell blocks, without what stands behind it."""
    found = re.findall(r"```sh\n(.*?)```", (REPOSITORY / "docs" / f"{page}.md").read_text(), re.S)
    return [
        [re.sub(r"\s+#.*", "", line).strip() for line in text.replace("\\\n", " ").splitlines() if line.strip()]
        for text in found
    ]


def test_traffic_adds_a_pod(release: Release) -> None:
    """The chart's jobs check a scene and ask for more frames than one pod can draw; the autoscaler adds a pod."""
    incoming = release.folder / "parts" / "root" / "srv" / "incoming"
    if incoming.exists():  # played once more: a job that has run is not run again
        release.plane.kubectl("delete", "jobs", "--all", "-n", NAME)
        shutil.rmtree(incoming)
    incoming.mkdir(parents=True)
    shutil.copy(release.folder / "knot.ply", incoming / "new.ply")
    release.plane.apply(*claimed("incoming", "/srv/incoming"))
    flags = "jobs.load.enabled=true,jobs.load.meanRate=7,jobs.load.durationSeconds=40,jobs.load.scenes={knot},"
    flags += "jobs.validate.new.claim=incoming,jobs.validate.new.file=new.ply,jobs.validate.new.to=file:///incoming/v1"
    done = release.helm("upgrade", NAME, ".", "--reuse-values", "--set", flags)
    assert done.returncode == 0, done.stderr
    two = lambda: len(release.pods("renderer-renderer", release.scenes)) == 2  # noqa: E731
    path = f"/apis/splatfleet.io/v1alpha1/namespaces/{release.scenes}/predictiveautoscalers/renderer"
    release.until(two, 120, "two pods")
    prometheus_operator.write_targets(release.ask, release.folder)
    status = release.ask(path)["status"]
    assert status["desiredReplicas"] == 2
    events = release.ask(f"/api/v1/namespaces/{release.scenes}/events")["items"]
    assert any(event["involvedObject"]["kind"] == "PredictiveAutoscaler" for event in events)
    job = f"/apis/batch/v1/namespaces/{NAME}/jobs/{NAME}-splatfleet-load"
    release.until(lambda: release.ask(job)["status"].get("succeeded"), 120, "the load job")
    validated = f"/apis/batch/v1/namespaces/{NAME}/jobs/{NAME}-splatfleet-validate-new"
    release.until(lambda: release.ask(validated)["status"].get("succeeded"), 60, "the validate job")
    (entry,) = json.loads((incoming / "catalogue.json").read_text())["scenes"]
    assert entry["id"] == "new"
    assert list((incoming / "v1").rglob("*"))
    warmed = re.compile(r"audit .*action=warm .*scene=knot")
    asked = lambda: any(warmed.search(text) for text in release.logs().values())  # noqa: E731
    release.until(asked, 30, "the autoscaler has the scene brought to the other node")
    summary = next(text for name, text in release.logs().items() if name.endswith("load.log"))
    figures, _ = json.JSONDecoder().raw_decode(summary[summary.index("{") :])
    assert figures["frames"] > 100


def test_panels_of_what_only_kubernetes_has(release: Release) -> None:
    """Those that the dashboards' own live test, which has no Kubernetes, leaves out; but KEDA, which is not here."""
    left_out = NOT_HERE.keys() - {"KEDA"}
    panels = [
        panel for path in BOARDS for panel in json.loads(path.read_text())["panels"] if panel["title"] in left_out
    ]
    assert {panel["title"] for panel in panels} == left_out
    for panel in panels:
        for target in panel["targets"]:
            query = filled(target["expr"], window_s=240, range_s=240)
            numbers = lambda query=query: [float(row["value"][1]) for row in release.sample(query)]  # noqa: E731
            release.until(lambda numbers=numbers: any(map(math.isfinite, numbers())), 20, f"{panel['title']}: {query}")


def claimed(name: str, path: str) -> list[dict[str, Any]]:
    """A volume of a node's path and a claim that has it."""
    common = {"accessModes": ["ReadWriteOnce"], "storageClassName": ""}
    volume = {"capacity": {"storage": "1Gi"}, "hostPath": {"path": path}, **common}
    claim = {"resources": {"requests": {"storage": "1Gi"}}, "volumeName": f"{NAME}-{name}", **common}
    return [
        {"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": f"{NAME}-{name}"}, "spec": volume},
        {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": name, "namespace": NAME},
         "spec": claim},
    ]  # fmt: skip


def test_no_part_was_denied_anything(release: Release) -> None:
    """In any log; the API server's own count is compared when the release has ended."""
    logs = release.logs()
    assert {name.rsplit("/", 1)[1] for name in logs} >= {
        "exporter.log", "scene-agent.log", "extender.log", "gateway.log", "autoscaler.log", "kube-scheduler.log"
    }  # fmt: skip
    denied = {
        name: line
        for name, text in logs.items() for line in text.splitlines()
        if re.search(r"forbidden|(status|code|HTTP)\W*403|cannot (get|list|watch|patch|create|update)", line, re.I)
    }  # fmt: skip
    assert denied == {}
