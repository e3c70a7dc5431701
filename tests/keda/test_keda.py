"""The real KEDA asks our external scaler and scales a Deployment ahead of a peak, and down again."""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from local_fleet.child import free_ports, verb_child
from local_fleet.control_plane import keda
from local_fleet.control_plane.binaries import Binaries, BinariesError
from local_fleet.control_plane.plane import ControlPlane
from tests.autoscaler.wire import Wire, serving

POOL = "viewers"
DAY_S = 60.0  # a day of this traffic; the peak is its last third
PEAK = (40.0, 60.0)
LOW_PER_S, HIGH_PER_S = 2.0, 40.0
SERVICE_S = 0.25
START_UP_S = 8.0
DAYS = 5


@pytest.fixture
def plane(control_plane_binaries: Binaries, tmp_path: Path) -> Iterator[ControlPlane]:
    """A control plane whose HPAs look every second, in a namespace where KEDA's adapter reaches nobody else."""
    try:
        keda.find()
    except BinariesError as error:
        pytest.skip(str(error))
    if not keda.only_loopback():
        pytest.skip(
            f"KEDA's adapter listens on every interface; this runs it where loopback is the only one: {keda.ADD}"
        )
    flags = {"kube-controller-manager": ["--horizontal-pod-autoscaler-sync-period=1s"]}
    with ControlPlane(control_plane_binaries, tmp_path / "plane", flags) as plane:
        yield plane


@pytest.mark.timeout(600)
def test_a_scaled_object_on_our_scaler_goes_up_ahead_of_a_peak_and_down_again(
    plane: ControlPlane, tmp_path: Path
) -> None:
    scaler = free_ports(1)[0]
    operator = keda.Keda(plane, keda.find())
    with serving() as gateway, _Traffic(gateway) as traffic:
        flags = {"pools": json.dumps(_pool()), "gateway": gateway.url, "interval-s": 1, "keda-listen": _address(scaler)}
        arguments = [f"--{flag}={value}" for flag, value in flags.items()]
        autoscaler = verb_child("autoscaler", arguments, tmp_path / "autoscaler.log")
        try:
            operator.start()
            plane.apply(_deployment(), _scaled_object(scaler))
            seen = _watch(plane, traffic)
        except Exception:
            print(operator.log_tails(), autoscaler.log_tail(), file=sys.stderr)
            raise
        finally:
            autoscaler.stop()
            operator.stop()
    enough = HIGH_PER_S * SERVICE_S  # pods that are busy all the time at the peak
    ahead, least = [], []
    for day in range(1, DAYS):
        rise_s = day * DAY_S + PEAK[0]
        during = _between(seen, rise_s + 10, day * DAY_S + PEAK[1])
        assert max(during) >= enough, f"day {day}: the peak was not served"
        ahead.append(max(_between(seen, rise_s - START_UP_S, rise_s)) >= enough)
        least.append(min(_between(seen, day * DAY_S + 10, rise_s)))
        print(f"day {day}: {least[-1]} to {max(during)} pods, {enough:g} before demand rose: {ahead[-1]}")
    assert any(ahead[1:]), f"never {enough:g} pods before demand rose: {seen}"
    assert least[-1] < enough, "down again between the last two peaks"


def _between(seen: list[tuple[float, int]], from_s: float, until_s: float) -> list[int]:
    return [count for at_s, count in seen if from_s <= at_s < until_s]


class _Traffic:
    """The gateway's counters as they would stand now, and the pods that are ready."""

    def __init__(self, gateway: Wire) -> None:
        self._gateway = gateway
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.ready = 1
        self.zero_s = 0.0

    def __enter__(self) -> _Traffic:
        self.zero_s = time.monotonic()
        self._publish(0.0)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._thread.join()

    def now_s(self) -> float:
        return time.monotonic() - self.zero_s

    def _run(self) -> None:
        last_s = total = 0.0
        while not self._stopping.wait(0.1):
            now_s = self.now_s()
            total += _rate_per_s(now_s) * (now_s - last_s)
            last_s = now_s
            self._publish(total)

    def _publish(self, total: float) -> None:
        labels = f'pool="{POOL}"'
        self._gateway.pages["/metrics"] = (
            f'splatfleet_gateway_requests_total{{{labels},scene="robot"}} {round(total)}\n'
            f"splatfleet_gateway_pending_requests{{{labels}}} 0\n"
            f'splatfleet_gateway_pods{{{labels},state="ready"}} {self.ready}\n'
        )


def _address(port: int) -> str:
    return f"127.0.0.1:{port}"


def _rate_per_s(at_s: float) -> float:
    return HIGH_PER_S if PEAK[0] <= at_s % DAY_S < PEAK[1] else LOW_PER_S


def _watch(plane: ControlPlane, traffic: _Traffic) -> list[tuple[float, int]]:
    """Replicas that the Deployment was asked for, by time; a pod counts as ready a start-up later."""
    seen: list[tuple[float, int]] = []
    while traffic.now_s() < DAYS * DAY_S:
        scale = plane.request("GET", "/apis/apps/v1/namespaces/default/deployments/renderer/scale")
        now_s = traffic.now_s()
        seen.append((now_s, int(scale["spec"]["replicas"])))
        started = [count for at_s, count in seen if at_s <= now_s - START_UP_S]
        traffic.ready = max(1, min(started[-1] if started else 1, seen[-1][1]))
        time.sleep(1.0)
    return seen


def _pool() -> dict[str, object]:
    return {
        "name": POOL,
        "min_replicas": 1,
        "max_replicas": 40,
        "service_s": SERVICE_S,
        "service_cv": 0.2,
        "startup_s": START_UP_S,
        "forecast": {"season_s": [DAY_S, 7 * DAY_S]},
        "behavior": {"settle_s": 3.0},
    }


def _deployment() -> dict[str, object]:
    labels = {"app": "renderer"}
    pod = {"metadata": {"labels": labels}, "spec": {"containers": [{"name": "renderer", "image": "renderer"}]}}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "renderer", "namespace": "default"},
        "spec": {"replicas": 1, "selector": {"matchLabels": labels}, "template": pod},
    }


def _scaled_object(scaler_port: int) -> dict[str, object]:
    fast = {"stabilizationWindowSeconds": 0, "policies": [{"type": "Percent", "value": 1000, "periodSeconds": 1}]}
    return {
        "apiVersion": "keda.sh/v1alpha1",
        "kind": "ScaledObject",
        "metadata": {"name": "renderer", "namespace": "default"},
        "spec": {
            "scaleTargetRef": {"name": "renderer"},
            "minReplicaCount": 1,
            "maxReplicaCount": 40,
            "pollingInterval": 1,
            "fallback": {"failureThreshold": 3, "replicas": 2, "behavior": "currentReplicasIfHigher"},
            "advanced": {"horizontalPodAutoscalerConfig": {"behavior": {"scaleUp": fast, "scaleDown": fast}}},
            "triggers": [
                {
                    "type": "external",
                    "metadata": {"scalerAddress": _address(scaler_port), "pool": POOL},
                }
            ],
        },
    }
