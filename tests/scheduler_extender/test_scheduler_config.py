"""The generated configuration passes the lint, and each thing that a user can get wrong is found with its reason."""

from __future__ import annotations

import base64
import copy
import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result

from fleet.digest import GpuDigest, Slice
from scheduler_extender.scheduler_config import Wanted, generate, lint, seconds
from splatfleet.__main__ import main
from tests.scheduler_extender.conftest import Exporter, digest

GOOD = generate(["nvidia.com/mig-1g.10gb", "nvidia.com/gpu"], Wanted())
SECURE = generate(
    ["nvidia.com/mig-1g.10gb"],
    Wanted(url="https://extender.fleet:9466", ca_data="Q0E=", certificate_file="/tls/tls.crt", key_file="/tls/tls.key"),
)


def splatfleet(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["scheduler-config", *arguments])


def test_what_is_generated_is_right() -> None:
    assert lint(GOOD, ["nvidia.com/gpu"]) == []
    assert lint(SECURE) == []
    (extender,) = SECURE["extenders"]
    assert extender["tlsConfig"] == {"caData": "Q0E=", "certFile": "/tls/tls.crt", "keyFile": "/tls/tls.key"}


def changed(configuration: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    made = copy.deepcopy(configuration)
    inner: Any = made
    *steps, last = path.split(".")
    for step in steps:
        inner = inner[int(step)] if step.isdigit() else inner[step]
    if value is None:
        del inner[last]
    else:
        inner[last] = value
    return made


@pytest.mark.parametrize(
    ("path", "value", "reason"),
    [
        ("kind", "Pod", "KubeSchedulerConfiguration"),
        ("apiVersion", "kubescheduler.config.k8s.io/v1beta3", "expected"),
        ("extenders", None, "will not ask anybody"),
        ("extenders", ["x"], "expected a mapping"),
        ("profiles.0.percentageOfNodesToScore", None, "the scene may not be in it"),
        ("profiles.0.percentageOfNodesToScore", 50, "the scene may not be in it"),
        ("extenders.0.weight", 12, "1,200"),
        ("extenders.0.weight", None, "1,200"),
        ("extenders.0.filterVerb", None, "promised"),
        ("extenders.0.prioritizeVerb", None, "nothing reserved"),
        ("extenders.0.bindVerb", "bind", "only one may"),
        ("extenders.0.nodeCacheCapable", False, "idle nodes"),
        ("extenders.0.ignorable", False, "while we are away"),
        ("extenders.0.httpTimeout", None, "when we hang"),
        ("extenders.0.httpTimeout", "5s", "when we hang"),
        ("extenders.0.httpTimeout", "soon", "when we hang"),
        ("extenders.0.urlPrefix", "http://10.0.0.7:9466", "over http"),
        ("extenders.0.urlPrefix", "extender", "HOST:PORT"),
        ("extenders.0.urlPrefix", "https://127.0.0.1:9466", "silently verifies nothing"),
        ("extenders.0.managedResources", [], "keep it from starting"),
        ("extenders.0.managedResources.0.ignoredByScheduler", True, "go on counting"),
        ("extenders.0.managedResources.0.name", "nvidia.com/mig-1x", "not valid"),
        ("extenders.0.managedResources.0.name", "nvidia.com/mig-1g.10gb", "managed 2 times"),
    ],
)
def test_errors_are_found_with_their_reason(path: str, value: Any, reason: str) -> None:
    errors = [finding for finding in lint(changed(GOOD, path, value)) if finding.error]
    assert len(errors) >= 1
    assert any(reason in finding.text for finding in errors), errors
    assert not [finding for finding in lint(GOOD) if reason in finding.text]


@pytest.mark.parametrize(
    ("path", "value", "reason"),
    [
        ("profiles.0.schedulerName", "default-scheduler", "second kube-scheduler"),
        ("extenders.0.preemptVerb", None, "warmest"),
        ("extenders.0.managedResources.0.name", "example.com/fpga", "we know nothing"),
    ],
)
def test_notes_do_not_fail_it(path: str, value: Any, reason: str) -> None:
    findings = lint(changed(GOOD, path, value))
    assert [finding.error for finding in findings] == [False]
    assert reason in findings[0].text


def test_tls_that_verifies_nothing() -> None:
    for path, value in (("extenders.0.tlsConfig.caData", None), ("extenders.0.tlsConfig.insecure", True)):
        assert [finding.error for finding in lint(changed(SECURE, path, value))] == [True]
    assert lint(changed(SECURE, "extenders.0.tlsConfig.certFile", None))[0].error is False


def test_a_profile_that_nodes_offer_and_nobody_manages() -> None:
    (finding,) = lint(GOOD, ["nvidia.com/mig-3g.40gb", "nvidia.com/gpu"])
    assert "nvidia.com/mig-3g.40gb" in finding.text


@pytest.mark.parametrize(
    ("text", "expected"),
    [("500ms", 0.5), ("1s", 1.0), ("1m30s", 90.0), ("1.5s", 1.5), ("5", None), ("", None), (None, None), ("x1s", None)],
)
def test_go_durations(text: Any, expected: float | None) -> None:
    assert seconds(text) == expected


def test_generate_from_what_nodes_offer_then_lint(tmp_path: Path) -> None:
    exporter = Exporter()
    cut = digest("gpu-1", slices=(Slice("1g.10gb+me", 0), Slice("3g.40gb", 4)))
    exporter.digest = type(cut)(cut.node, 1, 1.0, cut.scene_cache, (*cut.gpus, GpuDigest("GPU-9", "H100-80")))
    ca = tmp_path / "ca.crt"
    ca.write_text("a certificate")
    try:
        flags = ("--url", "https://extender:9466", "--ca", str(ca), "--profile", "1g.10gb")
        made = splatfleet("generate", "--node-digest", f"gpu-1={exporter.url}", *flags)
    finally:
        exporter.stop()
    assert (made.exit_code, made.stderr) == (0, "")
    configuration = yaml.safe_load(made.stdout)
    (extender,) = configuration["extenders"]
    assert base64.b64decode(extender["tlsConfig"]["caData"]) == b"a certificate"
    names = [item["name"].removeprefix("nvidia.com/") for item in extender["managedResources"]]
    assert names == ["gpu", "mig-1g.10gb", "mig-1g.10gb.me", "mig-3g.40gb"]
    file = tmp_path / "scheduler.yaml"
    file.write_text(made.stdout)
    done = splatfleet("lint", str(file), "--json", str(tmp_path / "findings.json"))
    assert (done.exit_code, "0 errors" in done.stdout) == (0, True)
    assert not any(finding["error"] for finding in json.loads((tmp_path / "findings.json").read_text()))
    file.write_text(made.stdout.replace("weight: 15", "weight: 1"))
    done = splatfleet("lint", str(file))
    assert (done.exit_code, "error: extenders[0].weight is 1" in done.stdout) == (1, True)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("generate",), "--profile or --node-digest"),
        (("generate", "--profile", "1x"), "--profile"),
        (("generate", "--profile", "1g.10gb", "--url", "https://x:1"), "--ca is needed"),
        (("generate", "--profile", "1g.10gb", "--url", "http://10.0.0.1:1"), "over http"),
        (("lint", "absent.yaml"), "absent.yaml"),
    ],
)
def test_usage_errors(arguments: tuple[str, ...], message: str) -> None:
    done = splatfleet(*arguments)
    assert (done.exit_code, message in done.stderr) == (2, True), done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("path", "value", "where"),
    [
        (
            "extenders",
            [*GOOD["extenders"], {**SECURE["extenders"][0], "managedResources": [{"name": "x.io/y"}]}],
            "exten",
        ),
        ("profiles.0.plugins", {"score": {"enabled": [{"name": "NodeAffinity", "weight": 20}]}}, "profiles splatfleet"),
        ("profiles.0.plugins", {"multiPoint": {"disabled": [{"name": "*"}]}}, "profiles splatfleet"),
        ("profiles.0.pluginConfig", [{"name": "NodeAffinity", "args": {"addedAffinity": {}}}], "profiles splatfleet"),
    ],
)
def test_who_else_adds_points_is_told(path: str, value: Any, where: str) -> None:
    found = lint(changed(GOOD, path, value))
    assert any(not each.error and each.where.startswith(where) and "--weight 0" in each.text for each in found)


def test_plugins_without_points_are_nobodys_business() -> None:
    assert lint(changed(GOOD, "profiles.0.plugins", {"filter": {"disabled": [{"name": "NodePorts"}]}})) == []
