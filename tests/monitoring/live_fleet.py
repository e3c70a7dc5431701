"""Every part of a fleet as a real process, real traffic through it, and a real Prometheus that watches."""

from __future__ import annotations

import asyncio
import contextlib
import json
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import httpx2
import websockets

from fleet import labels
from local_fleet.child import Child, free_ports
from local_fleet.control_plane.certificates import Authority
from local_fleet.triton_server import TritonServer
from monitoring.rules import rule_files
from tests.exporter.surroundings import MetricsServer
from tests.gateway.triton_pods import entry
from tests.scene_path.agents import TOKEN, entry_of, make_scene

TRAFFIC_S = 30.0
CAMERA = {"view_matrix": [1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 3, 0, 0, 0, 1],
          "projection_matrix": [2, 0, 0, 0, 0, 2, 0, 0, 0, 0, 1, -0.01, 0, 0, 1, 0], "size": [64, 64]}  # fmt: skip
DCGM = """\
DCGM_FI_PROF_GR_ENGINE_ACTIVE{gpu="0",UUID="GPU-a",GPU_I_PROFILE="1g.10gb",GPU_I_ID="7",Hostname="n"} 0.25
DCGM_FI_DEV_FB_USED{gpu="0",UUID="GPU-a",GPU_I_PROFILE="1g.10gb",GPU_I_ID="7",Hostname="n"} 100
DCGM_FI_DEV_FB_FREE{gpu="0",UUID="GPU-a",GPU_I_PROFILE="1g.10gb",GPU_I_ID="7",Hostname="n"} 900
"""
SLICES = [{"profile": "1g.10gb", "start": start, "healthy": True} for start in range(4)]
GPUS = {"gpus": [{"uuid": "GPU-a", "model": "NVIDIA H100 80GB HBM3", "healthy": True, "slices": SLICES}]}


@dataclass
class LiveFleet:
    """Where Prometheus answers, and from when to when there was traffic."""

    prometheus: str
    begin_s: float
    end_s: float

    def ask(self, path: str, **parameters: Any) -> Any:
        answer = httpx2.get(f"{self.prometheus}/api/v1/{path}", params=parameters, trust_env=False, timeout=10).json()
        assert answer["status"] == "success", answer
        return answer["data"]["result"]


class _Parts:
    """The processes, each with its port."""

    def __init__(self, folder: Path, stack: contextlib.ExitStack) -> None:
        self.folder, self._stack = folder, stack
        self.jobs: dict[str, list[str]] = {}

    def start(self, verb: str, *arguments: str) -> str:
        (port,) = free_ports(1)
        command = [sys.executable, "-m", "splatfleet", verb, *arguments, "--listen", f"127.0.0.1:{port}"]
        child = Child(verb, command, self.folder / f"{verb}-{port}.log")
        self._stack.callback(child.stop)
        child.wait_listening(port)
        self.jobs.setdefault(f"splatfleet-{verb}", []).append(f"127.0.0.1:{port}")
        return f"127.0.0.1:{port}"


def _scenes(folder: Path) -> Path:
    """Two scenes that fit into memory one at a time, one that takes long to fetch, one whose file is gone."""
    entries = []
    for number, name in enumerate(("robot", "garden", "slow", "gone")):
        path = folder / "source" / f"{name}.ply"
        make_scene(path, 20_000 if name == "slow" else 1_500, seed=number)
        known = asdict(entry_of(path))
        entries.append({key: known[key] for key in ("id", "uri", "digest", "source_bytes")})
    (folder / "source" / "gone.ply").unlink()
    catalogue = folder / "catalogue.json"
    catalogue.write_text(json.dumps({"version": 1, "scenes": entries}))
    return catalogue


@contextlib.contextmanager
def live_fleet(folder: Path, backends: Path, prometheus: str) -> Iterator[LiveFleet]:
    """Start all, send traffic for half a minute, hand over what Prometheus saw, end all."""
    with contextlib.ExitStack() as stack:
        parts = _Parts(folder, stack)
        catalogue = _scenes(folder)
        store = folder / "store"
        pod = TritonServer(backends, folder / "pod", {
            labels.SCENES_ENV: "robot", labels.CATALOGUE_ENV: str(catalogue), labels.SCENE_CACHE_ENV: str(store),
            labels.STORE_CAPACITY_ENV: str(1 << 30), labels.POD_BUDGET_ENV: str(400_000), labels.RASTERIZER_ENV: "cpu",
        })  # fmt: skip
        pod.start()
        stack.callback(pod.stop)
        pod.wait_ready()
        renderers = folder / "renderers.json"
        renderers.write_text(json.dumps({"version": 1, "renderers": [entry(0, pod)]}))
        (folder / "gpus.json").write_text(json.dumps(GPUS))
        dcgm = MetricsServer(DCGM)
        stack.callback(dcgm.stop)
        token = folder / "token"
        token.write_text(TOKEN + "\n")
        exporter = parts.start(
            "exporter", "--renderers-file", str(renderers), "--node", "node-1", "--scene-cache", str(store),
            "--gpus-file", str(folder / "gpus.json"), "--dcgm", dcgm.address, "--window-s", "5",
        )  # fmt: skip
        agent = parts.start(
            "scene-agent", "--store", str(store), "--catalogue", str(catalogue), "--token-file", str(token),
            "--node", "node-1", "--capacity-gb", "1", "--fetch-mb-per-s", "0.05",
        )  # fmt: skip
        authority = Authority(folder / "certificates", "authority")
        pair = authority.issue("extender", hosts=("127.0.0.1",))
        extender = parts.start(
            "extender", "--node-digest", f"node-1=http://{exporter}", "--poll-s", "1",
            "--tls-certificate", str(pair.certificate), "--tls-key", str(pair.key),
        )  # fmt: skip
        gateway = parts.start(
            "gateway", "--renderers-file", str(renderers), "--catalogue", str(catalogue),
            "--node-digest", f"node-1=http://{exporter}",
        )  # fmt: skip
        pool = {"name": "renderer", "max_replicas": 4, "startup_s": 2.0, "pod_budget_bytes": 1_000_000}
        parts.start(
            "autoscaler", "--pools", json.dumps(pool), "--gateway", f"http://{gateway}",
            "--exporters", f"http://{exporter}", "--interval-s", "1",
        )  # fmt: skip
        parts.jobs["splatfleet-renderer"] = [pod.metrics_address]
        url = _start_prometheus(stack, folder, prometheus, parts.jobs)
        begin_s = time.time()
        tls = ssl.create_default_context(cafile=str(authority.certificate))
        _traffic(gateway, agent, f"https://{extender}", tls)
        yield LiveFleet(url, begin_s, time.time())


def _start_prometheus(stack: contextlib.ExitStack, folder: Path, binary: str, jobs: dict[str, list[str]]) -> str:
    for name, text in rule_files().items():
        (folder / name).write_text(text.replace("interval: 30s", "interval: 1s"))
    scrapes = [
        {
            "job_name": job,
            "static_configs": [
                {"targets": targets, "labels": {"pool": "renderer"} if job.endswith("renderer") else {}}
            ],
            **({"scheme": "https", "tls_config": {"insecure_skip_verify": True}} if job.endswith("extender") else {}),
        }
        for job, targets in jobs.items()
    ]
    config = {"global": {"scrape_interval": "1s", "evaluation_interval": "1s"}, "rule_files": list(rule_files()),
              "scrape_configs": scrapes}  # fmt: skip
    (folder / "prometheus.yml").write_text(json.dumps(config))
    (port,) = free_ports(1)
    command = [binary, f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/data",
               f"--web.listen-address=127.0.0.1:{port}", "--log.level=warn"]  # fmt: skip
    child = Child("prometheus", command, folder / "prometheus.log")
    stack.callback(child.stop)
    child.wait_listening(port)
    return f"http://127.0.0.1:{port}"


def _traffic(gateway: str, agent: str, extender: str, tls: ssl.SSLContext) -> None:
    load = subprocess.Popen([
        sys.executable, "-m", "splatfleet", "load", "--gateway", f"http://{gateway}", "--scenes", "robot,garden",
        "--duration", str(TRAFFIC_S), "--mean-rate", "8", "--size", "64x64", "--shape", "flat",
    ], stdout=subprocess.DEVNULL)  # fmt: skip
    end_s = time.monotonic() + TRAFFIC_S
    try:
        with httpx2.Client(trust_env=False, timeout=10) as plain, httpx2.Client(verify=tls, trust_env=False) as secure:
            number = 0
            while time.monotonic() < end_s:
                number += 1
                _ask_agent(plain, agent, number)
                _ask_extender(secure, extender, number)
                plain.post(f"http://{gateway}/v1/render", json={"scene": "nobody", **CAMERA})
                asyncio.run(_stream(gateway))
                time.sleep(1)
    finally:
        load.wait(60)


def _ask_agent(client: httpx2.Client, agent: str, number: int) -> None:
    allowed = {"Authorization": f"Bearer {TOKEN}"}
    for scene, deadline_s in (("garden", 60.0), ("gone", 60.0), ("slow", 0.01)):
        client.put(f"http://{agent}/v1/scenes/{scene}", json={"deadline_s": deadline_s, "priority": 0}, headers=allowed)
    client.get(f"http://{agent}/v1/scenes")  # without a token: denied
    listed = client.get(f"http://{agent}/v1/scenes", headers=allowed).json()
    for scene in listed.get("scenes", ())[:1]:
        client.get(f"http://{agent}/v1/objects/{scene['digest']}", headers=allowed)
    if number % 5 == 0:  # so that it is fetched again
        client.delete(f"http://{agent}/v1/scenes/garden", headers=allowed)


def _pod(uid: str, profile: str, node: str = "") -> dict[str, Any]:
    device = {f"nvidia.com/mig-{profile}": "1"}
    return {
        "metadata": {"uid": uid, "name": uid, "namespace": "default", "labels": {labels.POOL_LABEL: "renderer"},
                     "annotations": {labels.SCENES_ANNOTATION: "robot"}},
        "spec": {"nodeName": node, "containers": [{"resources": {"limits": device, "requests": device}}]},
        "status": {"phase": "Pending"},
    }  # fmt: skip


def _ask_extender(client: httpx2.Client, extender: str, number: int) -> None:
    uid = f"uid-{number}"
    for profile in ("1g.10gb", "7g.80gb"):
        body = {"Pod": _pod(uid, profile), "Nodes": None, "NodeNames": ["node-1", "elsewhere"]}
        client.post(f"{extender}/filter", json=body)
    client.post(f"{extender}/prioritize", json={"Pod": _pod(uid, "1g.10gb"), "Nodes": None, "NodeNames": ["node-1"]})
    for kind in ("ADDED", "DELETED"):
        event = {"type": kind, "object": _pod(uid, "1g.10gb", "node-1")}
        client.post(f"{extender}/v1/pod-events", content=json.dumps(event))


async def _stream(gateway: str) -> None:
    """A viewer that moves on before its frame came."""
    async with websockets.connect(f"ws://{gateway}/v1/stream?scene=robot") as viewer:
        for number in range(6):
            await viewer.send(json.dumps({"id": number, "moving": True, **CAMERA}))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(1.5):
                while True:
                    await viewer.recv()
