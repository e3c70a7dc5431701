"""get, describe, explain, pause, resume, top and doctor against the real API server."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result

from autoscaler.decision import Decision, ForecastView, Reason
from autoscaler.observation import Observation
from autoscaler.reasons import WORDS
from autoscaler.resource import parse_resource
from autoscaler.status import Standing, status_of
from fleet.labels import COMPONENT_LABEL, PAUSED_ANNOTATION, PAUSED_SCALE_DOWN_ANNOTATION
from splatfleet.__main__ import main
from splatfleet.kubectl import duration
from tests.autoscaler.wire import serving
from tests.control_plane.objects import add_node
from tests.kubernetes_autoscaler.cluster import ACCOUNT, MERGE, REPOSITORY, Demand, Process, Space, until

Verb = Callable[..., Result]


@pytest.fixture
def verb(space: Space) -> Verb:
    """Runs a verb on the cluster, in the namespace of the test."""

    def run(*words: str, namespaced: bool = True) -> Result:
        place = ["-n", space.namespace] if namespaced else []
        return CliRunner().invoke(main, [*words, "--kubeconfig", str(space.plane.kubeconfig), *place])

    return run


def decide(space: Space, decision: Decision) -> None:
    """Write the status that the autoscaler would write of a decision."""
    import numpy as np

    resource = parse_resource(space.resource(), time.time())
    seen = Observation(space.namespace, 0.0, 1.0, np.zeros(1), ready=2, desired=decision.current)
    status = status_of(resource, decision, seen, Standing(), time.time())
    path = space.path("predictiveautoscalers", "renderer/status", "apis/splatfleet.io/v1alpha1")
    space.plane.request("PATCH", path, {"status": status}, MERGE)


DECISION = Decision(
    "pool", 6, Reason.FORECAST, "up 2->6: forecast: demand 4/s", current=2, floor=3, need=6, lead_s=90.0,
    demand_per_s=4.0, forecast=ForecastView({0.5: 6.0, 0.9: 9.5}, 0.9, {"daily": 1.0}, coverage=0.91, skill=0.6),
)  # fmt: skip


def test_get_lists_as_kubectl_does(space: Space, verb: Verb) -> None:
    assert verb("get", "pa").stderr == f"No resources found in {space.namespace} namespace.\n"
    space.deploy()
    space.autoscale()
    decide(space, DECISION)
    lines = verb("get", "pa").stdout.splitlines()
    theirs = space.plane.kubectl("get", "pa", "-n", space.namespace).splitlines()
    assert [line.split()[:-1] for line in lines] == [line.split()[:-1] for line in theirs]  # ages may be a second apart
    assert lines[1].split()[:9] == ["renderer", "renderer", "Active", "1", "10", "2", "6", "6", "True"]
    wide = verb("get", "autoscalers", "-o", "wide").stdout
    assert "forecast" in wide
    assert "demand 4/s" in wide
    everywhere = verb("get", "pa", "-A", namespaced=False).stdout.splitlines()
    assert everywhere[0].startswith("NAMESPACE")
    assert any(line.split()[:2] == [space.namespace, "renderer"] for line in everywhere)
    found = json.loads(verb("get", "pa", "renderer", "-o", "json").stdout)
    assert found["status"]["desiredReplicas"] == 6
    assert yaml.safe_load(verb("get", "pa", "-o", "yaml").stdout)["items"][0]["metadata"]["name"] == "renderer"
    assert verb("get", "pa", "-o", "name").stdout == "predictiveautoscaler.splatfleet.io/renderer\n"
    until(lambda: len(space.pods()) == 1)
    assert verb("get", "pods", "-o", "wide").stdout.splitlines()[1].split()[1] == space.namespace
    add_node(space.plane, "operator-mig", {"nvidia.com/mig-1g.10gb": 7}, **{"splatfleet.io/capacity-type": "spot"})
    nodes = verb("get", "nodes", "-o", "wide", namespaced=False).stdout
    space.plane.kubectl("delete", "node", "operator-mig")
    assert "1g.10gb=7" in next(line for line in nodes.splitlines() if line.startswith("operator-mig"))


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["get", "things"], 2, "kind 'things': expected autoscalers"),
        (["get", "pa", "../secrets"], 2, "name '../secrets'"),
        (["get", "pa", "nobody"], 1, "nobody"),
        (["describe", "nobody"], 1, "404 NotFound"),
        (["explain", "autoscaler", "nobody"], 1, "404 NotFound"),
        (["pause", "nobody"], 1, "404 NotFound"),
        (["pause", "renderer", "--for", "soon"], 2, "--for 'soon': expected a time as 90s"),
        (["pause", "a/b"], 2, "name 'a/b'"),
        (["doctor", "--service-account", "x"], 2, "expected NAMESPACE/NAME"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(verb: Verb, words: list[str], code: int, said: str) -> None:
    result = verb(*words)
    assert (result.exit_code, said in result.stderr) == (code, True), result.stderr
    assert "Traceback" not in result.output


def test_an_api_server_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "c",
        "clusters": [{"name": "c", "cluster": {"server": "http://127.0.0.1:1"}}],
        "users": [{"name": "c", "user": {}}],
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "c"}}],
    }
    (tmp_path / "config").write_text(json.dumps(config))
    for words in (["get", "pa"], ["top", "--once"], ["doctor"]):
        result = CliRunner().invoke(main, [*words, "--kubeconfig", str(tmp_path / "config")])
        assert result.exit_code == 1
        assert "http://127.0.0.1:1" in result.stderr
        assert len(result.stderr.splitlines()) == 1
    result = CliRunner().invoke(main, ["get", "pa", "--kubeconfig", str(tmp_path / "none")])
    assert (result.exit_code, "kubeconfig" in result.stderr) == (1, True)


def test_describe_and_explain_say_why(space: Space, verb: Verb) -> None:
    space.deploy()
    space.autoscale()
    assert "nothing was decided yet" in verb("explain", "autoscaler", "renderer").stdout
    decide(space, DECISION)
    described = verb("describe", "renderer").stdout
    for part in ("Target:     Deployment/renderer", "2 ready", "6 desired", "forecast.startupSeconds: 2", "Events:"):
        assert part in described
    explained = verb("explain", "autoscaler", "renderer").stdout
    for part in (
        WORDS[Reason.FORECAST],
        "9.5/s at the 0.9 quantile",
        "needs 6",
        "coverage 0.91",
        "carried out     yes",
    ):
        assert part in explained


def test_every_reason_has_words() -> None:
    assert set(WORDS) == set(Reason)


def test_pause_and_resume_set_and_take_the_annotations(space: Space, verb: Verb) -> None:
    space.autoscale()

    def annotations() -> dict[str, str]:
        found = space.resource()["metadata"].get("annotations", {})
        return {name: value for name, value in found.items() if name.startswith("splatfleet.io/")}

    assert "paused until" in verb("pause", "renderer").stdout
    assert verb("pause", "renderer", "--scale-down").exit_code == 0
    assert annotations() == {PAUSED_ANNOTATION: "true", PAUSED_SCALE_DOWN_ANNOTATION: "true"}
    assert PAUSED_ANNOTATION in verb("describe", "renderer").stdout
    assert verb("resume", "renderer").stdout == "predictiveautoscaler.splatfleet.io/renderer resumed\n"
    assert annotations() == {}
    assert "for 120m, until 20" in verb("pause", "renderer", "--for", "2h").stdout
    until_s = parse_resource(space.resource(), time.time()).paused_until_s
    assert until_s is not None
    assert 7100 < until_s - time.time() < 7300


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0, "0s"),
        (119, "119s"),
        (120, "2m"),
        (330, "5m30s"),
        (3600, "60m"),
        (11_000, "3h3m"),
        (90_000, "25h"),
        (2e5, "2d"),
    ],
)
def test_ages_are_kubectls(seconds: float, said: str) -> None:
    assert duration(seconds) == said


def test_top_prints_once_without_a_terminal(space: Space, verb: Verb) -> None:
    space.deploy()
    space.autoscale()
    decide(space, DECISION)
    head, line, *_ = verb("top").stdout.splitlines()
    assert head.split()[0] == "POOL"
    assert line.split()[:4] == [f"{space.namespace}/renderer", "Active", "4", "9.5"]


def test_the_verbs_are_a_kubectl_plugin(space: Space, tmp_path: Path) -> None:
    space.autoscale()
    plugin = tmp_path / "kubectl-splatfleet"
    code = "from splatfleet.__main__ import kubectl_plugin; kubectl_plugin()"
    plugin.write_text(f"#!/bin/sh\nexec {sys.executable} -c '{code}' \"$@\"\n")
    plugin.chmod(plugin.stat().st_mode | stat.S_IXUSR)
    kubectl = space.plane.binaries.program("kubectl")
    environment = os.environ | {
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
        "KUBECONFIG": str(space.plane.kubeconfig),
        "PYTHONPATH": str(REPOSITORY),
    }

    def plug(*words: str) -> str:
        done = subprocess.run(
            [str(kubectl), "splatfleet", *words],
            env=environment,
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        )
        return done.stdout

    assert "renderer" in plug("get", "pa", "-n", space.namespace)
    assert plug("get", "--help").startswith("Usage: kubectl splatfleet get")


def findings(result: Result) -> dict[str, list[dict[str, Any]]]:
    by_check: dict[str, list[dict[str, Any]]] = {}
    for found in json.loads(result.stdout):
        by_check.setdefault(found["check"], []).append(found)
    return by_check


@pytest.mark.usefixtures("kubelet")
def test_doctor_finds_what_is_wrong_and_says_the_fix(
    space: Space, verb: Verb, demand: Demand, start: Callable[..., Process]
) -> None:
    space.deploy()
    space.autoscale()
    sick = verb("doctor", "-o", "json", "--service-account", "default/nobody")
    assert sick.exit_code == 1
    found = findings(sick)
    assert found["crd"][0]["state"] == "ok"
    assert found["leader"][0]["state"] == "fail"
    assert "may not" in found["rbac"][0]["said"]
    assert "patch deployments/scale" in found["rbac"][0]["said"]
    assert "was never decided for" in found["autoscalers"][0]["said"]
    assert all(item["fix"] for items in found.values() for item in items if item["state"] in ("fail", "warn"))
    assert found["clocks"][0]["state"] == "ok"
    text = verb("doctor").stdout
    assert "fix: " in text

    demand.rate_per_s = 1.0
    start()
    until(lambda: space.condition("MetricsAvailable").get("status") == "True", 40)
    with serving() as prometheus:
        prometheus.pages["/api/v1/query"] = '{"status":"success","data":{"result":[{"value":[0,"3"]}]}}'
        well = verb("doctor", "-o", "json", "--service-account", f"default/{ACCOUNT}", "--prometheus", prometheus.url)
    found = findings(well)
    for check in ("api server", "crd", "rbac", "leader", "autoscalers", "second writer", "prometheus", "clocks"):
        assert {item["state"] for item in found[check]} == {"ok"}, found[check]


def test_doctor_looks_at_what_placeholders_need(space: Space, verb: Verb) -> None:
    space.deploy("with-placeholders", replicas=0)
    marks = {COMPONENT_LABEL: "autoscaler", "app.kubernetes.io/part-of": "splatfleet"}
    args = [
        {"op": "add", "path": "/spec/template/spec/containers/0/args", "value": [f"--placeholders={space.namespace}"]}
    ]
    space.plane.kubectl(
        "patch", "deployment/with-placeholders", "-n", space.namespace, "--type=json", "-p", json.dumps(args)
    )
    marked = {"metadata": {"labels": marks}}
    space.plane.request("PATCH", space.path("deployments", "with-placeholders"), marked, MERGE)

    def placeholders(account: str) -> dict[str, Any]:
        (found,) = findings(verb("doctor", "-o", "json", "--service-account", account))["placeholders"]
        return found

    denied = placeholders("default/nobody")
    assert (denied["state"], "may not create pods" in denied["said"]) == ("fail", True)
    assert "delete pods" in denied["said"]
    assert "autoscaler.placeholders.enabled" in denied["fix"]
    absent = placeholders(f"default/{ACCOUNT}")
    assert (absent["state"], "no such PriorityClass" in absent["said"]) == ("fail", True)
    assert f"kubectl create priorityclass {space.namespace}" in absent["fix"]
    space.plane.kubectl("create", "priorityclass", space.namespace, "--value=-10")
    try:
        assert placeholders(f"default/{ACCOUNT}")["state"] == "ok"
    finally:
        space.plane.kubectl("delete", "priorityclass", space.namespace)
