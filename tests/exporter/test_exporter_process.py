"""The exporter as users run it: a process, real HTTP, real files."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import httpx2
import pytest
from click.testing import CliRunner
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from fleet.metrics import CATALOGUE
from splatfleet.exporter import COMMAND
from tests.exporter.surroundings import GIB, REPOSITORY, Exporter, MetricsServer, Store, write_json

GOLDEN = Path(__file__).with_name("golden.prom")
GPU = "GPU-11111111-2222-3333-4444-555555555555"
StartExporter = Callable[..., Exporter]
ServeMetrics = Callable[[str], MetricsServer]


def _get(url: str, **headers: str) -> httpx2.Response:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return httpx2.get(url, headers=named, trust_env=False, timeout=10)


def _samples(exporter: Exporter) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    families = parse_text(_get(f"{exporter.url}/metrics").text)
    return {(s.name, tuple(sorted(s.labels.items()))): s.value for family in families for s in family.samples}


def _up(exporter: Exporter, source: str) -> list[float]:
    return [
        v
        for (name, labels), v in _samples(exporter).items()
        if name.endswith("source_up") and ("source", source) in labels
    ]


def _renderer(uid: str, address: str, cut: str = "") -> dict[str, object]:
    return {
        "uid": uid, "pool": "viewers", "node": "node-0", "grpc_address": "", "http_address": "",
        "metrics_address": address, "ready": True, "slice": cut,
    }  # fmt: skip


@pytest.fixture
def gpus_file(tmp_path: Path) -> Path:
    slices = [
        {"profile": "1g.10gb", "start": 0, "healthy": True, "pod_uid": ""},
        {"profile": "1g.10gb", "start": 1, "healthy": False, "pod_uid": ""},
        {"profile": "3g.40gb", "start": 4, "healthy": True, "pod_uid": ""},
    ]
    path = tmp_path / "gpus.json"
    write_json(path, {"gpus": [{"uuid": GPU, "model": "H100-80", "healthy": True, "slices": slices}]})
    return path


def test_golden_exposition(
    start_exporter: StartExporter,
    serve_metrics: ServeMetrics,
    triton_text: str,
    store: Store,
    gpus_file: Path,
    tmp_path: Path,
) -> None:
    """Every family but durations, process figures and free disk, to the byte."""
    gpu = f'{{gpu_uuid="{GPU}"}}'
    triton = serve_metrics(
        triton_text
        + f"nv_gpu_utilization{gpu} 0.5\nnv_gpu_memory_used_bytes{gpu} 1e9\nnv_gpu_memory_total_bytes{gpu} 8e10\n"
    )
    write_json(
        tmp_path / "renderers.json",
        {"version": 1, "renderers": [_renderer("pod-0", triton.address, f"{GPU}/3g.40gb@4")]},
    )
    store.set_capacity(1000)
    store.put("robot", 300)
    store.put("garden", 200)
    store.fetch("truck", 50, 100)
    exporter = start_exporter(
        "--renderers-file", str(tmp_path / "renderers.json"), "--node", "node-0",
        "--scene-cache", str(store.root), "--gpus-file", str(gpus_file),
    )  # fmt: skip
    triton.text = triton.text.replace("1667656", "2667656").replace("1438786", "1938786")  # 1 s queued, 0.5 s computed
    text = _get(f"{exporter.url}/metrics").text
    ours = [line for line in text.splitlines() if "splatfleet_" in line and "duration_seconds" not in line]
    shown = "\n".join(ours).replace(str(tmp_path), "TMP").replace(triton.address, "TRITON") + "\n"
    if os.environ.get("SPLATFLEET_WRITE_GOLDEN"):
        GOLDEN.write_text(shown)
    assert shown == GOLDEN.read_text()


def test_every_name_is_of_the_catalogue_and_both_formats_parse(
    start_exporter: StartExporter, serve_metrics: ServeMetrics, triton_text: str, store: Store, gpus_file: Path
) -> None:
    store.put("robot")
    triton = serve_metrics(triton_text)
    exporter = start_exporter(
        "--triton", triton.address, "--scene-cache", str(store.root), "--gpus-file", str(gpus_file)
    )
    plain = _get(f"{exporter.url}/metrics", accept="text/plain;version=0.0.4")
    assert plain.headers["content-type"].startswith("text/plain; version=0.0.4")
    open_metrics = _get(f"{exporter.url}/metrics", accept="application/openmetrics-text;version=1.0.0,text/plain;q=0.5")
    assert open_metrics.headers["content-type"].startswith("application/openmetrics-text; version=1.0.0")
    assert open_metrics.text.endswith("# EOF\n")
    names = {s.name for family in parse_text(plain.text) for s in family.samples}
    assert names == {s.name for family in parse_openmetrics(open_metrics.text) for s in family.samples}
    ours = {name for name in names if not name.startswith("process_")}
    assert ours <= set(CATALOGUE)
    assert len(ours) >= 12
    assert not {name for name in ours if "gpu_duty" in name or "gpu_memory" in name}, "no GPU: absent, never 0"
    for path, status in (("/-/healthy", 200), ("/-/ready", 200), ("/", 200), ("/nowhere", 404)):
        assert _get(exporter.url + path).status_code == status


def test_digest_etag_and_304(start_exporter: StartExporter, store: Store) -> None:
    store.put("robot", 300)
    exporter = start_exporter("--scene-cache", str(store.root), "--node", "node-0")
    first = _get(f"{exporter.url}/v1/node")
    assert first.status_code == 200
    digest = first.json()
    assert digest["version"] == 1
    assert digest["node"] == "node-0"
    assert digest["scene_cache"]["scenes"][0]["id"] == "robot"
    assert digest["scene_cache"]["capacity_bytes"] == 10 * GIB
    tag = first.headers["etag"]
    assert re.fullmatch(r'"\d+\.\d{3}-1"', tag)
    for match in (tag, f"W/{tag}", f'"other", {tag}', "*"):
        same = _get(f"{exporter.url}/v1/node", if_none_match=match)
        assert (same.status_code, same.content, same.headers["etag"]) == (304, b"", tag)
    assert _get(f"{exporter.url}/v1/node", if_none_match='"other"').status_code == 200
    store.put("robot", 300, last_used_s=2.0)
    assert _get(f"{exporter.url}/v1/node", if_none_match=tag).status_code == 304, "use alone is no news yet"
    store.put("garden", 200)
    second = _get(f"{exporter.url}/v1/node", if_none_match=tag)
    assert second.status_code == 200
    assert second.headers["etag"] != tag
    assert [scene["id"] for scene in second.json()["scene_cache"]["scenes"]] == ["garden", "robot"]
    assert second.json()["generation"] == 2
    exporter.stop()
    again = start_exporter("--scene-cache", str(store.root), "--node", "node-0")
    assert _get(f"{again.url}/v1/node").headers["etag"] not in (tag, second.headers["etag"]), "a restart is another tag"


def test_renderers_file_rewritten_broken_and_mended_while_serving(
    start_exporter: StartExporter, serve_metrics: ServeMetrics, triton_text: str, tmp_path: Path
) -> None:
    path = tmp_path / "renderers.json"
    first, second = serve_metrics(triton_text), serve_metrics(triton_text)
    exporter = start_exporter("--renderers-file", str(path), "--node", "node-0")

    def pods() -> set[str]:
        return {
            dict(labels)["pod"] for name, labels in _samples(exporter) if name == "splatfleet_triton_pending_requests"
        }

    assert (pods(), _up(exporter, "renderers")) == (set(), [0])  # it starts before the file is there
    write_json(path, {"version": 1, "renderers": [_renderer("pod-0", first.address)]})
    assert (pods(), _up(exporter, "renderers")) == ({"pod-0"}, [1])
    both = [_renderer("pod-0", first.address), _renderer("pod-1", second.address)]
    write_json(path, {"version": 1, "renderers": both})
    assert pods() == {"pod-0", "pod-1"}
    path.write_text('{"version": 1, "renderers": [{')
    assert (pods(), _up(exporter, "renderers")) == ({"pod-0", "pod-1"}, [0])
    write_json(path, {"version": 1, "renderers": both[1:]})
    assert (pods(), _up(exporter, "renderers")) == ({"pod-1"}, [1])
    log = exporter.log.read_text()
    assert log.count("source down") == 2, log
    assert log.count("source up again") == 2, log


def test_a_dead_triton_is_down_and_the_rest_is_served(
    start_exporter: StartExporter, serve_metrics: ServeMetrics, triton_text: str, store: Store
) -> None:
    store.put("robot")
    dead, alive = serve_metrics(triton_text), serve_metrics(triton_text)
    exporter = start_exporter(
        "--triton", f"http://{dead.address}/metrics", "--triton", alive.address, "--scene-cache", str(store.root)
    )
    assert _up(exporter, "triton") == [1, 1]
    dead._server.shutdown()
    dead._server.server_close()
    samples = _samples(exporter)
    up = {dict(labels)["target"]: value for (name, labels), value in samples.items() if name.endswith("source_up")}
    assert up == {dead.address: 0, alive.address: 1, str(store.root): 1}
    assert {dict(labels)["pod"] for name, labels in samples if "triton_pending" in name} == {alive.address}
    assert ("splatfleet_scene_cache_scene_bytes", (("scene", "robot"),)) in samples


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_cleanly_even_amid_a_scrape(
    number: signal.Signals, start_exporter: StartExporter, serve_bytes: Callable[..., str]
) -> None:
    exporter = start_exporter("--triton", serve_bytes(hang=True), "--deadline-s", "1", "--node", "node-0")
    assert "node-0" in exporter.line
    request = subprocess.Popen(
        [sys.executable, "-c", f"import urllib.request as u; u.urlopen('{exporter.url}/metrics')"]
    )
    time.sleep(0.5)
    exporter.process.send_signal(number)
    assert exporter.process.wait(30) == 0
    assert "Traceback" not in exporter.log.read_text()
    request.wait(30)


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        ([], "nothing to export"),
        (["--triton", "ftp://x"], "--triton"),
        (["--scene-cache", "x", "--listen", "9465"], "--listen"),
        (["--scene-cache", "x", "--listen", "127.0.0.1:0", "--window-s", "0"], "--window-s"),
    ],
)
def test_wrong_flags_exit_2_with_one_line(flags: list[str], says: str) -> None:
    done = CliRunner().invoke(COMMAND, flags)
    assert done.exit_code == 2
    assert says in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_taken_port_exits_1_with_one_line(start_exporter: StartExporter, store: Store) -> None:
    exporter = start_exporter("--scene-cache", str(store.root))
    listen = exporter.url.removeprefix("http://")
    command = [sys.executable, "-m", "splatfleet", "exporter", "--scene-cache", str(store.root), "--listen", listen]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 1
    assert listen in done.stderr
    assert done.stderr.count("\n") == 1


def test_the_digest_decodes_into_the_shared_words(start_exporter: StartExporter, store: Store, gpus_file: Path) -> None:
    import msgspec

    from fleet.digest import NodeDigest

    store.put("robot", 300)
    exporter = start_exporter("--scene-cache", str(store.root), "--gpus-file", str(gpus_file), "--node", "node-0")
    text = _get(f"{exporter.url}/v1/node").content
    digest = msgspec.json.decode(text, type=NodeDigest)
    assert digest.gpus[0].slices[2].profile == "3g.40gb"
    assert json.loads(text) == json.loads(msgspec.json.encode(digest))
