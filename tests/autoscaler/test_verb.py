"""`splatfleet autoscaler` as a process: Shadow decisions, its metrics, its errors."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
from click.testing import CliRunner

from autoscaler.decision import Decision
from autoscaler.demand import Reading
from autoscaler.exposition import DecisionMetrics
from autoscaler.pool import Pool
from autoscaler.runner import Runner
from autoscaler.shadow import ShadowCluster
from splatfleet.autoscaler import COMMAND, AutoscalerSettings, _once, read_pools
from splatfleet.replay import COMMAND as REPLAY
from splatfleet.settings import resolve
from tests.autoscaler.wire import serving


def test_shadow_decisions_metrics_and_a_clean_end(tmp_path: Path, free_port: int) -> None:
    with serving() as gateway:
        config = tmp_path / "autoscaler.yaml"
        config.write_text(
            f"gateway: {gateway.url}\n"
            "interval-s: 0.25\n"
            f"listen: 127.0.0.1:{free_port}\n"
            "pools:\n"
            "  - name: renderer\n"
            "    max_replicas: 6\n"
            "    startup_s: 2\n"
            "    objective: {max_queue_wait_s: 0.5, violation_ratio: 0.02}\n"
        )
        command = [sys.executable, "-m", "splatfleet", "autoscaler", "--config", str(config)]
        command += ["--json", str(tmp_path / "out.json"), "--decision-log", str(tmp_path / "log.jsonl")]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        try:
            begin_s = time.monotonic()
            text = ""
            while time.monotonic() - begin_s < 20 and "splatfleet_autoscaler_demand_requests_per_second{" not in text:
                count = int((time.monotonic() - begin_s) * 40)
                gateway.pages["/metrics"] = f'splatfleet_gateway_requests_total{{pool="renderer",scene="a"}} {count}\n'
                time.sleep(0.05)
                try:
                    with urllib.request.urlopen(f"http://127.0.0.1:{free_port}/metrics", timeout=2) as page:
                        text = page.read().decode()
                except OSError:
                    continue
            for path in ("/-/healthy", "/-/ready"):
                with urllib.request.urlopen(f"http://127.0.0.1:{free_port}{path}", timeout=2) as page:
                    assert page.status == 200
        finally:
            process.send_signal(signal.SIGTERM)
            out, err = process.communicate(timeout=40)
    assert process.returncode == 0, err
    assert err == ""
    assert "autoscaler (Shadow) listens on" in out
    assert " renderer up 1->" in out
    assert "splatfleet_autoscaler_desired_replicas" in text
    assert 'splatfleet_autoscaler_decisions_total{pool="renderer",reason="no_data"}' in text
    again = CliRunner().invoke(REPLAY, [str(tmp_path / "log.jsonl")])
    assert again.exit_code == 0, again.output
    assert "decisions the same bit for bit" in again.output
    (decision,) = json.loads((tmp_path / "out.json").read_text())["decisions"]
    assert 1 <= decision["replicas"] <= 6
    assert decision["reason"] in decision["explanation"]


def test_once_against_a_dead_prometheus_holds_and_says_so(free_port: int) -> None:
    result = CliRunner().invoke(
        COMMAND, ["--pools", "renderer", "--prometheus", f"http://127.0.0.1:{free_port}", "--once"]
    )
    assert result.exit_code == 1
    assert "hold 1: no_data" in result.output
    assert "refused" in result.output
    assert "Traceback" not in result.output


class _Broken:
    """A source that fails on every look."""

    def read(self, pool: Pool, now_s: float) -> Reading:
        raise ValueError("is broken")


def test_once_fails_where_a_pool_was_not_observed() -> None:
    cluster = ShadowCluster([Pool("a")], _Broken())
    runner = Runner(cluster, 15.0, DecisionMetrics())
    reported: list[Decision] = []
    try:
        settings = resolve(AutoscalerSettings, {"pools": ("a",), "prometheus": "http://127.0.0.1:1"}, {})
        assert not _once(runner, cluster, settings, reported.extend)
    finally:
        runner.close()
    assert cluster.outcomes == {}


@pytest.mark.parametrize(
    "text",
    [
        '[{"name": "a", "max_replicas": 3}, {"name": "b", "objective": {"max_queue_wait_s": 1.0}}]',
        '{"name": "a", "max_replicas": 3}, {"name": "b", "objective": {"max_queue_wait_s": 1.0}}',
    ],
)
def test_pools_as_json_by_flag_and_by_environment(text: str) -> None:
    for flags, environment in (({"pools": (text,)}, {}), ({}, {"SPLATFLEET_AUTOSCALER_POOLS": text})):
        first, second = read_pools(resolve(AutoscalerSettings, flags, environment))
        assert (first.name, first.max_replicas) == ("a", 3)
        assert (second.name, second.objective.max_queue_wait_s) == ("b", 1.0)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "--pools: none is given"),
        (["--pools", "a"], "give one of them"),
        (["--pools", "a", "--pools", "a", "--gateway", "http://x"], "twice"),
        (["--pools", '{"name": "a", "max_replica": 3}'], "max_replica does not exist"),
        (["--pools", '{"name": "a", "tick_s": 3}'], "tick_s is 3, leave it out: --interval-s"),
        (["--pools", '{"name": "a", "carried-out": false}'], "carried_out is False, leave it out"),
        (["--pools", '{"name": "a", "objective": {"wait": 3}}'], "objective.wait does not exist"),
        (
            ["--pools", '{"name": "a", "overrides": [{"until": 9e9}]}'],
            "overrides[0].until does not exist; known here: un",
        ),
        (["--pools", '{"name": "a", "calendars": ["08:00"]}'], "calendars[0] is '08:00', expected a mapping"),
        (["--pools", '{"name": "a", "objective": 3}'], "expected a mapping"),
        (["--pools", '{"name": "a", "max_replicas": "x"}'], "Expected `int`"),
        (["--pools", '{"name": "a", "max_replicas": 0}'], "max_replicas is 0"),
        (["--pools", '{"name": "a", "max_replicas": "x"}'], "pool 'a': max_replicas is 'x', Expected `int`, got `str`"),
        (["--pools", '{"name": "a", "max_replicas": 0}'], "--pools: pool 'a': max_replicas is 0, expected >= min"),
        (["--pools", '{"max_replicas": 2}'], "pool '?': Object missing required field `name`"),
        (["--pools", '{"name": "a", "mode": "x"}'], "mode is 'x', Invalid enum value 'x' (predictive or reactive)"),
        (
            ["--pools", '{"name": "a", "calendars": [{"name": "w", "begin": "08:00", "end": 1080}]}'],
            'calendars[0].end is 1080, Expected `str`, got `int`: write it in quotes, as "18:00"',
        ),
        (["--pools", '{"name": "a", "max_replica": 3}'], "mode, service_s"),
        (["--pools", '{"name": "a"'], "is no JSON"),
        (["--pools", "[renderer]"], "'[renderer]' is no name of a pool"),
        (["--pools", '[["renderer"]]'], "expected a name or a mapping"),
        (["--pools", '{"name": "a b"}'], "'a b' is no name of a pool"),
        (["--pools", '[{"name": "a"}, {"name": "a"}]'], "twice"),
        (["--pools", "a", "--gateway", "localhost:80"], "is no URL"),
        (["--pools", "a", "--gateway", "http://x", "--listen", "nowhere"], "is no address"),
    ],
)
def test_usage_errors_name_the_setting(arguments: list[str], words: str) -> None:
    result = CliRunner().invoke(COMMAND, arguments)
    assert result.exit_code == 2
    assert words in result.output
