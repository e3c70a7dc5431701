"""The autoscaler reads the recorded arrivals of a real Prometheus as it reads the counters."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import httpx2
import numpy as np
import pytest

from autoscaler.demand import Outcome
from autoscaler.pool import Pool
from autoscaler.prometheus import PrometheusDemand

pytestmark = pytest.mark.prometheus

MINUTES = 120
GAP = range(60, 64)  # minutes in which the rule was not evaluated
PER_MIN = 30


def history(end_s: int) -> str:
    """The counter of two gateways every 15 s, and the recorded minute every 30 s, as OpenMetrics."""
    lines = ["# TYPE splatfleet_gateway_requests counter"]
    for gateway in "ab":
        for step in range(MINUTES * 4 + 1):
            value = step / 4 * PER_MIN
            at_s = end_s - MINUTES * 60 + step * 15
            lines.append(
                f'splatfleet_gateway_requests_total{{pool="web",scene="robot",pod="{gateway}"}} {value} {at_s}'
            )
    lines.append("# TYPE pool:splatfleet_gateway_requests:increase1m gauge")
    for step in range(2, MINUTES * 2 + 1):
        if step // 2 not in GAP:
            at_s = end_s - MINUTES * 60 + step * 30
            lines.append(f'pool:splatfleet_gateway_requests:increase1m{{pool="web"}} {2 * PER_MIN} {at_s}')
    return "\n".join([*lines, "# EOF"]) + "\n"


def test_recorded_and_counted_history_agree(
    prometheus_tool: Callable[[str], str], tmp_path: Path, free_port: int
) -> None:
    end_s = int(time.time()) // 60 * 60 - 60
    (tmp_path / "history.txt").write_text(history(end_s))
    (tmp_path / "prometheus.yml").write_text("global: {}\n")
    promtool = [prometheus_tool("promtool"), "tsdb", "create-blocks-from", "openmetrics", "--quiet"]
    subprocess.run([*promtool, "history.txt", "data"], cwd=tmp_path, check=True, capture_output=True, timeout=60)
    process = subprocess.Popen(
        [
            prometheus_tool("prometheus"), f"--config.file={tmp_path}/prometheus.yml",
            f"--storage.tsdb.path={tmp_path}/data",
            f"--web.listen-address=127.0.0.1:{free_port}", "--log.level=error", "--storage.tsdb.retention.time=30d",
        ]
    )  # fmt: skip
    url = f"http://127.0.0.1:{free_port}"
    try:
        wait_until_ready(url)
        reading = {}
        for recorded in (False, True):
            source = PrometheusDemand(url, history_s=2 * 3600.0, recorded=recorded)
            reading[recorded] = source.read(Pool("web"), float(end_s))
            source.close()
    finally:
        process.terminate()
        process.wait(20)
    assert reading[True].outcome is Outcome.OK, reading[True].detail
    counted, read = reading[False].demand, reading[True].demand
    assert counted[70:] == pytest.approx(2 * PER_MIN)
    assert read[70:] == pytest.approx(counted[70:])
    assert np.isnan(read[60:63]).all(), "a rule that was not evaluated is no data, not the value before it"


def wait_until_ready(url: str) -> None:
    end_s = time.monotonic() + 20
    while time.monotonic() < end_s:
        try:
            if httpx2.get(f"{url}/-/ready", trust_env=False, timeout=2).status_code == 200:
                return
        except httpx2.HTTPError:
            time.sleep(0.1)
    raise AssertionError("Prometheus is not ready")


def test_recorded_bins_are_minutes() -> None:
    with pytest.raises(ValueError, match="60 s"):
        PrometheusDemand("http://127.0.0.1:1", bin_s=15.0, recorded=True)
