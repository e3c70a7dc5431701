"""A real Prometheus scrapes the exporter, and promtool reads what it and the catalogue write."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx2
import pytest
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, generate_latest

from fleet.metrics import CATALOGUE
from tests.exporter.surroundings import Exporter, MetricsServer, Store

pytestmark = pytest.mark.prometheus


class Prometheus:
    """A real server that scrapes one target five times a second."""

    def __init__(self, binary: str, folder: Path, port: int, target: str) -> None:
        config = folder / "prometheus.yml"
        config.write_text(
            "global: {scrape_interval: 200ms}\n"
            f"scrape_configs: [{{job_name: exporter, static_configs: [{{targets: ['{target}']}}]}}]\n"
        )
        self.url = f"http://127.0.0.1:{port}"
        with (folder / "prometheus.log").open("w") as log:
            self.process = subprocess.Popen(
                [
                    binary, f"--config.file={config}", f"--storage.tsdb.path={folder / 'data'}",
                    f"--web.listen-address=127.0.0.1:{port}",
                ],
                stdout=log, stderr=log,
            )  # fmt: skip

    def query(self, text: str) -> dict[tuple[tuple[str, str], ...], float]:
        """An instant query: labels without job, instance and name, to the value."""
        try:
            response = httpx2.get(f"{self.url}/api/v1/query", params={"query": text}, trust_env=False, timeout=5)
        except httpx2.HTTPError:
            return {}
        if response.status_code == 503:  # it listens before its storage is open
            return {}
        answer = response.json()
        assert answer["status"] == "success", answer
        hidden = ("job", "instance", "__name__")
        return {
            tuple(sorted((k, v) for k, v in row["metric"].items() if k not in hidden)): float(row["value"][1])
            for row in answer["data"]["result"]
        }

    def wait_for(self, text: str, deadline_s: float = 20) -> dict[tuple[tuple[str, str], ...], float]:
        """Ask until the query has an answer."""
        end_s = time.monotonic() + deadline_s
        while not (answer := self.query(text)):
            assert time.monotonic() < end_s, f"no answer to {text}"
            time.sleep(0.1)
        return answer


@pytest.fixture
def start_prometheus(
    tmp_path: Path, free_port: int, prometheus_tool: Callable[[str], str]
) -> Iterator[Callable[[str], Prometheus]]:
    running: list[Prometheus] = []

    def start(target: str) -> Prometheus:
        running.append(Prometheus(prometheus_tool("prometheus"), tmp_path, free_port, target))
        return running[-1]

    yield start
    for prometheus in running:
        prometheus.process.terminate()
        try:
            prometheus.process.wait(10)
        finally:
            prometheus.process.kill()


def test_prometheus_scrapes_and_answers(
    start_exporter: Callable[..., Exporter],
    start_prometheus: Callable[[str], Prometheus],
    serve_metrics: Callable[[str], MetricsServer],
    triton_text: str,
    store: Store,
) -> None:
    store.put("robot", 300)
    store.put("garden", 200)
    triton = serve_metrics(triton_text)
    exporter = start_exporter("--triton", triton.address, "--scene-cache", str(store.root))
    prometheus = start_prometheus(exporter.url.removeprefix("http://"))
    assert prometheus.wait_for("up == 1")
    assert list(prometheus.wait_for("sum(splatfleet_scene_cache_scene_bytes)").values()) == [500]
    model = (("model", "gaussian_renderer"), ("pod", triton.address), ("pool", "renderer"))
    name = 'splatfleet_triton_queue_seconds_total{model="gaussian_renderer"}'
    assert prometheus.wait_for(name)[model] == pytest.approx(1.667656)
    # 2 s queued and 1 s computed: Prometheus' own division says the same as ours.
    triton.text = triton_text.replace("1667656", "3667656").replace("1438786", "2438786")
    assert prometheus.wait_for(f"{name} > 3")
    grown = "max_over_time({0}[30s]) - min_over_time({0}[30s])"  # `increase` extrapolates each counter differently
    queue, compute = (grown.format(f"splatfleet_triton_{part}_seconds_total") for part in ("queue", "compute"))
    divided = prometheus.wait_for(f"({queue}) / (({compute}) > 0)")
    ours = prometheus.wait_for("splatfleet_triton_queue_to_compute_ratio")
    assert ours[model] == pytest.approx(2.0)
    assert divided == pytest.approx({model: 2.0})
    assert set(ours) == {model}, "the other model computed nothing: absent"
    # An evicted scene goes stale, it does not become 0.
    store.evict("robot")
    assert prometheus.wait_for("sum(splatfleet_scene_cache_scene_bytes) == 200")
    assert prometheus.query('splatfleet_scene_cache_scene_bytes{scene="robot"}') == {}
    assert prometheus.query("splatfleet_exporter_source_up == 0") == {}


def test_promtool_has_nothing_to_say_about_the_exporter(
    start_exporter: Callable[..., Exporter],
    serve_metrics: Callable[[str], MetricsServer],
    triton_text: str,
    store: Store,
    prometheus_tool: Callable[[str], str],
) -> None:
    store.put("robot")
    gpu = 'nv_gpu_utilization{gpu_uuid="GPU-a"} 0.5\nnv_gpu_memory_used_bytes{gpu_uuid="GPU-a"} 1\n'
    triton = serve_metrics(triton_text + gpu)
    exporter = start_exporter("--triton", triton.address, "--scene-cache", str(store.root))
    httpx2.get(f"{exporter.url}/metrics", trust_env=False)
    text = httpx2.get(f"{exporter.url}/metrics", trust_env=False).text
    assert "splatfleet_gpu_duty_ratio" in text
    assert _check(prometheus_tool("promtool"), text) == (0, "")


def test_promtool_has_nothing_to_say_about_the_catalogue(prometheus_tool: Callable[[str], str]) -> None:
    registry = CollectorRegistry()
    kinds = {"counter": Counter, "gauge": Gauge, "histogram": Histogram, "info": Info}
    for metric in CATALOGUE.values():
        made = kinds[metric.kind](metric.name, metric.help, metric.labels, registry=registry)
        if metric.labels:
            made.labels(*("x" for _ in metric.labels))
    text = generate_latest(registry).decode()
    # `_created` is prometheus_client's own and off in our servers.
    lines = [line for line in text.splitlines() if "_created" not in line]
    assert sum(line.startswith("# TYPE") for line in lines) == len(CATALOGUE)
    assert _check(prometheus_tool("promtool"), "\n".join(lines) + "\n") == (0, "")
    code, said = _check(prometheus_tool("promtool"), "# TYPE splatfleet_wrong_ms counter\nsplatfleet_wrong_ms 1\n")
    assert code, "the check itself can fail"
    assert "splatfleet_wrong_ms" in said


def _check(promtool: str, text: str) -> tuple[int, str]:
    done = subprocess.run(
        [promtool, "check", "metrics"], input=text, capture_output=True, text=True, timeout=30, check=False
    )
    return done.returncode, (done.stdout + done.stderr).strip()
