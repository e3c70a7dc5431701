"""The simulated HPA beside the real one: the same recorded series, tick by tick."""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kube.connection import Connection
from kube.objects import DEPLOYMENTS
from kube.reflector import Reflector, Scope
from local_fleet.control_plane.binaries import Binaries
from local_fleet.control_plane.plane import ControlPlane
from simulator.rivals.hpa import HpaBehavior, average_value_replicas
from simulator.trace_file import read_trace
from tests.simulator.external_metrics import ExternalMetrics, Question

# Policy period and window are 15 s and 300 s by default; here a second stands for 15. The controller asks every 0.6 s,
# since with a sync period equal to the policy period it is chance whether the last tick's change still counts.
SYNC, PERIOD_S, WINDOW_S = "600ms", 1, 20
TICKS = 80
DOUBT_S = 0.15
BOUNDS = (1, 40)
TARGET = 10.0
SERIES = {
    "hpa-crane11": "rate_cloud_crane11",
    "hpa-code": "rate_llm_azure_code",
    "hpa-amzn": "rate_social_nab_amzn",
    "hpa-crane": "rate_cloud_crane09",
    "hpa-azure": "rate_llm_azure_conv",
    "hpa-nasa": "rate_web_nasa_jul95",
    "hpa-nab": "rate_web_nab_elb",
    "hpa-sessions": "rate_websessions_r4",
    "hpa-servegen": "rate_llm_servegen_mmimage_1s",
}


def recorded(data_dir: Path, name: str) -> list[float]:
    """The liveliest stretch of a recorded trace, scaled so that it asks for a bit more than the most replicas."""
    counts = np.asarray(read_trace(data_dir / "traces" / f"{name}.csv.gz").counts, np.float64)
    stretches = np.lib.stride_tricks.sliding_window_view(counts, TICKS + 5)
    spread = np.nan_to_num(stretches.std(axis=1) / (stretches.mean(axis=1) + 1.0), nan=-1.0)  # NaN: a gap in the source
    chosen = stretches[int(spread.argmax())]
    return [float(value) for value in np.round(chosen / chosen.max() * TARGET * (BOUNDS[1] + 4), 3)]


def simulated(questions: Sequence[Question], doubt_s: float = 0.0) -> list[int]:
    """What our HPA makes of the same values at the same moments, on its own replicas."""
    behavior = HpaBehavior(down_window_s=WINDOW_S + doubt_s, period_s=float(PERIOD_S))
    replicas, course = questions[0].replicas, []
    for question in questions:
        desired = average_value_replicas(question.value, TARGET, replicas)
        replicas = behavior.limit(question.at_s, replicas, desired, BOUNDS)
        course.append(replicas)
    return course


@pytest.mark.skipif(
    not os.environ.get("SPLATFLEET_QUIET_MACHINE"),
    reason="compares ticks in time, which other work shifts; on a quiet machine: make test-hpa",
)
def test_it_equals_the_real_controller_on_recorded_traffic(
    control_plane_binaries: Binaries, tmp_path: Path, data_dir: Path
) -> None:
    series = {name: recorded(data_dir, trace) for name, trace in SERIES.items()}
    flags = {"kube-controller-manager": [f"--horizontal-pod-autoscaler-sync-period={SYNC}"]}
    with ControlPlane(control_plane_binaries, tmp_path / "plane", flags) as plane:
        connection = Connection.open(plane.kubeconfig)
        targets = Reflector(connection, DEPLOYMENTS, Scope("default")).start()

        def replicas_of(name: str) -> int:
            target = targets.get(name, "default")
            assert target is not None
            return target.spec.replicas or 0

        with ExternalMetrics(plane, tmp_path, series, replicas_of) as metrics:
            plane.apply(*(deployment(name, 3) for name in series))
            while len(targets.items()) < len(series):
                time.sleep(0.05)
            plane.apply(*(autoscaler(name) for name in series))
            end_s = time.monotonic() + 150.0
            while min(len(metrics.asked.get(name, ())) for name in series) < TICKS + 1:
                assert time.monotonic() < end_s, {name: len(asked) for name, asked in metrics.asked.items()}
                time.sleep(0.2)
        targets.stop()
        connection.close()
    equal = exactly = total = moves = 0
    for name, questions in metrics.asked.items():
        theirs = [question.replicas for question in questions[1 : TICKS + 1]]  # what each tick led to
        # The controller takes its time a moment after it has asked us, so the edge of a window is known to DOUBT_S.
        courses = [simulated(questions[:TICKS], doubt_s) for doubt_s in (0.0, -DOUBT_S, DOUBT_S)]
        same = [real in ours for real, *ours in zip(theirs, *courses, strict=True)]
        equal, total = equal + sum(same), total + TICKS
        moves += sum(before != after for before, after in itertools.pairwise(theirs))
        assert min(theirs) < max(theirs), f"{name} moved nothing, and shows nothing"
        exactly += sum(map(int.__eq__, courses[0], theirs))
        print(f"{name}: {sum(same)} of {TICKS} ticks, {min(theirs)} to {max(theirs)} replicas")
    print(f"{equal} of {total} ticks are equal ({equal / total:.1%}), {exactly} with windows that end when we think")
    assert total >= 300
    assert moves >= 30, "series that move nothing show nothing"
    assert equal / total >= 0.99


def deployment(name: str, replicas: int) -> dict[str, Any]:
    labels = {"app": name}
    pod = {"metadata": {"labels": labels}, "spec": {"containers": [{"name": "renderer", "image": "none"}]}}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {"replicas": replicas, "selector": {"matchLabels": labels}, "template": pod},
    }


def autoscaler(name: str) -> dict[str, Any]:
    up = [{"type": "Pods", "value": 4}, {"type": "Percent", "value": 100}]
    down = [{"type": "Percent", "value": 100, "periodSeconds": PERIOD_S}]
    target = {"type": "AverageValue", "averageValue": str(TARGET)}
    return {
        "apiVersion": "autoscaling/v2",
        "kind": "HorizontalPodAutoscaler",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {
            "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": name},
            "minReplicas": BOUNDS[0],
            "maxReplicas": BOUNDS[1],
            "metrics": [{"type": "External", "external": {"metric": {"name": name}, "target": target}}],
            "behavior": {
                "scaleUp": {"policies": [{**policy, "periodSeconds": PERIOD_S} for policy in up]},
                "scaleDown": {"stabilizationWindowSeconds": WINDOW_S, "policies": down},
            },
        },
    }
