"""What new pods are told to load, and whose GPU time it was."""

from __future__ import annotations

import json
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from fleet import metrics
from fleet.labels import SCENES_ANNOTATION
from tests.autoscaler.wire import Wire, serving
from tests.control_plane.objects import add_node
from tests.kubernetes_autoscaler.cluster import Demand, Process, Space, until

Start = Callable[..., Process]


@pytest.mark.usefixtures("kubelet")
def test_new_pods_are_told_what_to_load_and_their_time_is_counted(space: Space, demand: Demand, start: Start) -> None:
    add_node(space.plane, "operator-slices", {"nvidia.com/mig-1g.10gb": 7}, **{"splatfleet.io/capacity-type": "spot"})
    try:
        space.deploy(asked={"nvidia.com/mig-1g.10gb": "1"}, gated=True)
        space.autoscale({"maxReplicas": 5, "warmup": {"podBudgetBytes": 10_000_000}})
        with _digest() as digest:
            demand.rate_per_s = 0.1
            process = start(
                *("--node-digests", f"operator-slices={digest.url}", "--listen", "127.0.0.1:0"),
                *("--prices", "spot=3600"),
            )
            until(lambda: "/v1/node" in digest.asked, 20)  # what a scene weighs is known before pods are asked for
            demand.rate_per_s = 6.0
            until(lambda: space.replicas() == 5, 40)
            until(lambda: sum(pod["status"]["phase"] == "Running" for pod in space.pods()) == 5, 20)
            assert sum(_scenes(pod) == "ball" for pod in space.pods()) >= 3
            url = process.text.partition("listens on ")[2].split()[0]
            until(lambda: _grown(url)["idle"] == pytest.approx(2.0 / 7.0), 20)  # a whole look with all five
            first, begin_s = _slice_seconds(url), time.monotonic()
            until(lambda: _total(_slice_seconds(url)) - _total(first) >= 7 * 3.0, 30)
            second, passed_s = _slice_seconds(url), time.monotonic() - begin_s
        counted_s = (_total(second) - _total(first)) / 7
        assert 0.5 * passed_s < counted_s < passed_s + 2.0  # the first look may have been a while ago
        assert (second["idle"] - first["idle"]) / counted_s == pytest.approx(2.0, rel=1e-6)
        starts = _samples(url, metrics.AUTOSCALER_STARTUP_SECONDS.name + "_count")
        assert sum(value for labels, value in starts if labels["stage"] == "total") >= 5
        assert {labels["stage"] for labels, _ in starts} >= {"provisioning", "total"}
        assert _samples(url, metrics.AUTOSCALER_LEADER.name) == [({}, 1.0)]
    finally:
        space.plane.kubectl("delete", "node", "operator-slices")


def _scenes(pod: dict[str, Any]) -> str:
    return str(pod["metadata"].get("annotations", {}).get(SCENES_ANNOTATION, ""))


def _samples(url: str, name: str) -> list[tuple[dict[str, str], float]]:
    with urllib.request.urlopen(f"{url}/metrics", timeout=5) as reply:
        text = reply.read().decode()
    families = text_string_to_metric_families(text)
    return [(dict(s.labels), s.value) for family in families for s in family.samples if s.name == name]


def _slice_seconds(url: str) -> dict[str, float]:
    found = _samples(url, metrics.COST_SLICE_SECONDS.name)
    return {labels["use"]: value for labels, value in found if labels["capacity_type"] == "spot"}


def _total(seconds: dict[str, float]) -> float:
    return sum(seconds.values())


def _grown(url: str) -> dict[str, float]:
    """The shares of the slices between the next two looks."""
    first = _slice_seconds(url)
    until(lambda: _slice_seconds(url) != first, 10, every_s=0.05)
    second = _slice_seconds(url)
    passed = _total(second) - _total(first)
    return {use: (second[use] - first.get(use, 0.0)) / passed for use in ("idle", "allocated")}


@contextmanager
def _digest() -> Iterator[Wire]:
    """An exporter at the wire whose node has the scene `ball` on its disk."""
    rates = {"fetch_bytes_per_s": 0.0, "read_bytes_per_s": 0.0}
    scene = {"id": "ball", "digest": "0" * 64, "bytes": 1000, "last_used_s": 0.0}
    cache = {"capacity_bytes": 10_000, "free_bytes": 9000, "scenes": [scene], **rates}
    digest = {"node": "operator-slices", "generation": 1, "started_at_s": 1.0, "scene_cache": cache}
    with serving() as wire:
        wire.pages["/v1/node"] = json.dumps(digest)
        yield wire
