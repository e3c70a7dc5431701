"""What doctor makes of clusters that are wrong in one way each."""

from __future__ import annotations

import base64
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import trustme
import yaml

from scheduler_extender.scheduler_config import Wanted, generate
from splatfleet import doctor_checks as checks
from splatfleet.doctor_checks import Finding

NOW = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
NOW_S = NOW.timestamp()


def worst(findings: Any) -> Finding:
    order = {"ok": 0, "skip": 1, "warn": 2, "fail": 3}
    found: Finding = max(findings, key=lambda finding: order[finding.state])
    return found


def meta(name: str, **labels: str) -> dict[str, Any]:
    return {"name": name, "namespace": "splats", "labels": {k.replace("_", "/"): v for k, v in labels.items()}}


@pytest.mark.parametrize(
    ("days", "state", "said"),
    [(-2, "fail", "expired 47h ago"), (3, "warn", "expires in 3d"), (90, "ok", "holds for 90d")],
)
def test_certificates(days: int, state: str, said: str) -> None:
    ca = trustme.CA()
    made = ca.issue_cert("x", not_after=datetime.now(UTC) + timedelta(days=days), not_before=NOW - timedelta(days=9999))
    secret = {"metadata": meta("tls"), "data": {"tls.crt": base64.b64encode(made.cert_chain_pems[0].bytes()).decode()}}
    found = worst(checks.certificates([secret], datetime.now(UTC).timestamp() - 60.0))
    assert (found.state, said in found.said) == (state, True), found


def test_a_secret_without_a_certificate() -> None:
    secret = {"metadata": meta("tls"), "data": {"tls.crt": base64.b64encode(b"nothing").decode()}}
    assert worst(checks.certificates([secret], NOW_S)).state == "fail"
    assert worst(checks.certificates([], NOW_S)).state == "skip"


def test_clocks() -> None:
    assert worst(checks.clocks(NOW_S, [], NOW_S + 1)).state == "ok"
    off = worst(checks.clocks(NOW_S, [], NOW_S + 3600))
    assert (off.state, "+3600 s off" in off.said) == ("fail", True)
    ahead = {"metadata": meta("n1"), "spec": {"renewTime": (NOW + timedelta(seconds=90)).isoformat()}}
    found = worst(checks.clocks(NOW_S, [ahead], NOW_S))
    assert (found.state, "n1 +90 s" in found.said) == ("fail", True)
    assert worst(checks.clocks(None, [], NOW_S)).state == "skip"


def test_nodes() -> None:
    marked = {"metadata": meta("n1", **{"nvidia.com_gpu.present": "true"}), "status": {"allocatable": {"cpu": "4"}}}
    found = list(checks.nodes([marked], []))
    assert [finding.state for finding in found] == ["fail", "fail"]
    assert "labelled as a GPU node and offers no GPU" in found[0].said
    sliced = {"metadata": meta("n2"), "status": {"allocatable": {"nvidia.com/mig-1g.10gb": "7"}}}
    bare = worst(checks.nodes([sliced], []))
    assert (bare.state, "no exporter and scene agent run on n2" in bare.said) == ("warn", True)
    served = {
        "metadata": meta("p", **{"app.kubernetes.io_component": "node"}),
        "spec": {"nodeName": "n2"},
        "status": {"phase": "Running"},
    }
    assert worst(checks.nodes([sliced], [served])).state == "ok"
    beside = {"metadata": {"labels": {"splatfleet.io/exporter-beside": "true"}}, "spec": {"nodeName": "elsewhere"}}
    assert worst(checks.nodes([sliced], [beside])).state == "ok", "a node without a renderer has no exporter then"


def test_schedulers() -> None:
    good = generate(["nvidia.com/mig-1g.10gb"], Wanted())
    config = {"metadata": meta("scheduler"), "data": {"config.yaml": yaml.safe_dump(good)}}
    pod = {"metadata": meta("p"), "spec": {"schedulerName": "splatfleet"}}
    assert worst(checks.schedulers([config], [pod])).state in ("ok", "warn")
    stranger = worst(
        checks.schedulers([config], [pod, {"metadata": meta("q"), "spec": {"schedulerName": "default-scheduler"}}])
    )
    assert (stranger.state, "ask for scheduler default-scheduler" in stranger.said) == ("fail", True)
    assert worst(checks.schedulers([], [pod])).state == "warn"
    bad = {**good, "extenders": [{**good["extenders"][0], "weight": 0}]}
    broken = {"metadata": meta("scheduler"), "data": {"config.yaml": yaml.safe_dump(bad)}}
    assert worst(checks.schedulers([broken], [pod])).state == "fail"


def test_second_writers() -> None:
    def item(mode: str) -> dict[str, Any]:
        return {"metadata": meta("pa"), "spec": {"mode": mode, "scaleTargetRef": {"name": "renderer"}}}

    writers = [("ScaledObject", "splats", "so", "renderer"), ("HorizontalPodAutoscaler", "other", "h", "renderer")]
    found = worst(checks.second_writers([item("Active")], writers))
    assert (found.state, "ScaledObject splats/so" in found.said) == ("fail", True)
    assert worst(checks.second_writers([item("Shadow")], writers)).state == "ok"


def test_definition() -> None:
    assert worst(checks.definition(None, ())).state == "fail"
    condition = {"type": "Established", "status": "True"}
    schema = {"properties": {"spec": {"properties": {"minReplicas": {"type": "integer"}}}}}
    version = {"name": "v1alpha1", "served": True, "schema": {"openAPIV3Schema": schema}}
    crd = {"status": {"conditions": [condition]}, "spec": {"versions": [version]}}
    assert worst(checks.definition(crd, ["minReplicas"])).state == "ok"
    old = worst(checks.definition(crd, ["minReplicas", "objective.violationRatio"]))
    assert (old.state, "lacks objective.violationRatio" in old.said) == ("warn", True)


def test_leader() -> None:
    def lease(age_s: float, holder: str = "a") -> dict[str, Any]:
        renewed = (NOW - timedelta(seconds=age_s)).isoformat()
        return {"spec": {"holderIdentity": holder, "renewTime": renewed, "leaseDurationSeconds": 15}}

    assert checks.leader(lease(2), NOW_S).state == "ok"
    assert "10m ago" in checks.leader(lease(600), NOW_S).said
    assert checks.leader(lease(2, ""), NOW_S).state == "fail"
    assert checks.leader(None, NOW_S).state == "fail"


def test_versions_and_components() -> None:
    assert checks.version({"major": "1", "minor": "36+", "gitVersion": "v1.36.3"}).state == "ok"
    assert checks.version({"major": "1", "minor": "24", "gitVersion": "v1.24.0"}).state == "fail"
    down = {"metadata": meta("gateway"), "spec": {"replicas": 2}, "status": {"readyReplicas": 1}}
    assert "1 of 2 ready" in worst(checks.components([down])).said
    assert worst(checks.components([])).state == "warn"


@pytest.mark.parametrize(
    ("arguments", "found"),
    [
        (["--listen=:1", "--placeholders=later"], "later"),
        (["--placeholders", "later", "--listen=:1"], "later"),
        (["--placeholder-image=pause"], ""),
        (["--placeholders"], ""),
    ],
)
def test_the_class_of_placeholders_is_read_from_the_flags(arguments: list[str], found: str) -> None:
    pod = {"containers": [{"name": "sidecar"}, {"name": "autoscaler", "args": arguments}]}
    assert checks.placeholder_class({"spec": {"template": {"spec": pod}}}) == found
    assert checks.placeholder_class(None) == ""
