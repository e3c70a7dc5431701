"""A GPU that breaks: from a dcgm-exporter's text through the digest to extender and autoscaler. No GPU is here."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import httpx2
import msgspec
import numpy as np
import pytest

from autoscaler.demand import Outcome, Reading
from autoscaler.kubernetes_view import World, observation_of
from autoscaler.memory import PoolMemory
from autoscaler.pod_stages import StartupBook
from autoscaler.policy import decide
from autoscaler.pool import Behavior, Mode, Pool
from exporter.gpu_health import WHOLE_GPU, read_faults, with_faults
from fleet.digest import DIGEST_PATH, GpuDigest, NodeDigest, Slice
from kube.objects import Pod
from local_fleet.child import free_ports, verb_child
from tests.exporter.surroundings import Exporter, MetricsServer, write_json
from tests.scheduler_extender.conftest import pod as asking

GPU, OTHER = "GPU-11111111-2222-3333-4444-555555555555", "GPU-99999999-2222-3333-4444-555555555555"
_OF_A_GPU = 'gpu="0",UUID="{uuid}",pci_bus_id="00000000:17:00.0",device="nvidia0",modelName="NVIDIA H100 80GB HBM3"'


def dcgm_text(xid: int = 0, remap_failure: int = 0, uuid: str = GPU, instance: str = "", said: str = "") -> str:
    """As dcgm-exporter 4 renders its default counters, of one GPU."""
    told = _OF_A_GPU.format(uuid=uuid)
    if instance:
        told += f',GPU_I_PROFILE="1g.10gb",GPU_I_ID="{instance}"'
    told += ',hostname="gpu-1"'
    return (
        "# HELP DCGM_FI_DEV_XID_ERRORS Value of the last XID error encountered.\n"
        "# TYPE DCGM_FI_DEV_XID_ERRORS gauge\n"
        f'DCGM_FI_DEV_XID_ERRORS{{{told},err_code="{xid}",err_msg="{said}"}} {xid}\n'
        "# HELP DCGM_FI_DEV_ROW_REMAP_FAILURE Whether remapping of rows has failed\n"
        "# TYPE DCGM_FI_DEV_ROW_REMAP_FAILURE gauge\n"
        f"DCGM_FI_DEV_ROW_REMAP_FAILURE{{{told}}} {remap_failure}\n"
    )


@pytest.mark.parametrize(
    ("text", "faults"),
    [
        (dcgm_text(), {}),
        (dcgm_text(31, said="GPU memory page fault"), {}),  # the program's fault
        (dcgm_text(79, said="GPU has fallen off the bus"), {WHOLE_GPU: "Xid 79 GPU has fallen off the bus"}),
        (dcgm_text(48), {WHOLE_GPU: "Xid 48"}),  # ECC, two bits
        (dcgm_text(remap_failure=1), {WHOLE_GPU: "memory rows could not be remapped"}),
        (dcgm_text(94, instance="7"), {3: "Xid 94"}),  # ECC, contained in one slice
        (dcgm_text(94, instance="8"), {WHOLE_GPU: "Xid 94"}),  # nobody knows where that slice begins
    ],
)
def test_which_errors_are_the_gpus(text: str, faults: dict[int, str]) -> None:
    assert read_faults(text, {(GPU, 7): 3}) == {GPU: faults}


def test_a_fault_marks_what_it_names_and_heals_nothing() -> None:
    gpu = GpuDigest(GPU, "H100-80", slices=(Slice("1g.10gb", 2, healthy=False), Slice("1g.10gb", 3)))
    other = GpuDigest(OTHER, "H100-80", healthy=False)
    assert with_faults((gpu, other), {GPU: {}, OTHER: {}}) == (gpu, other)
    (marked,) = with_faults((gpu,), {GPU: {3: "Xid 94"}})
    assert (marked.healthy, [cut.healthy for cut in marked.slices]) == (True, [False, False])
    (marked,) = with_faults((gpu,), {GPU: {WHOLE_GPU: "Xid 79"}})
    assert not marked.healthy


def test_a_gpu_that_breaks_gets_no_pod_and_its_pod_is_counted_out(
    start_exporter: Callable[..., Exporter], serve_metrics: Callable[[str], MetricsServer], tmp_path: Path
) -> None:
    """Exporter and extender as processes; the autoscaler's own view of the same digest."""
    dcgm = serve_metrics(dcgm_text() + dcgm_text(uuid=OTHER))
    held = {"profile": "1g.10gb", "start": 0, "pod_uid": "uid-0"}
    gpus = [
        {"uuid": GPU, "model": "H100-80", "slices": [held, {"profile": "1g.10gb", "start": 1}]},
        {"uuid": OTHER, "model": "H100-80", "slices": [{**held, "pod_uid": "uid-1"}]},
    ]
    write_json(tmp_path / "gpus.json", {"gpus": gpus})
    exporter = start_exporter("--node", "gpu-1", "--gpus-file", str(tmp_path / "gpus.json"), "--dcgm", dcgm.address)
    port = free_ports(1)[0]
    url = f"http://127.0.0.1:{port}"
    flags = [f"--node-digest=gpu-1={exporter.url}", "--poll-s=0.1", f"--listen=127.0.0.1:{port}"]
    extender = verb_child("extender", flags, tmp_path / "extender.log")
    try:
        extender.wait_listening(port)
        _until(lambda: httpx2.get(f"{url}/-/ready", trust_env=False).status_code == 200, "the extender is ready")
        _until(lambda: _refusal(url) == "", "a sound slice is free")
        assert _asked_for(_digest(exporter)) == 2
        dcgm.text = dcgm_text(79, said="GPU has fallen off the bus") + dcgm_text(uuid=OTHER)
        _until(lambda: _refusal(url) != "", "no pod goes there")
        assert _asked_for(_digest(exporter)) == 3, "two were asked for, and the one on the broken GPU serves nobody"
        assert 'state="unhealthy"} 2' in httpx2.get(f"{exporter.url}/metrics", trust_env=False).text
        dcgm.text = dcgm_text(uuid=OTHER)  # DCGM has lost the GPU, and says nothing of it
        for _ in range(3):
            assert [gpu.healthy for gpu in _digest(exporter).gpus] == [False, True], "silence heals nothing"
        dcgm.text = dcgm_text() + dcgm_text(uuid=OTHER)  # after a reset
        _until(lambda: _refusal(url) == "", "it is used again")
        assert _asked_for(_digest(exporter)) == 2
        write_json(tmp_path / "gpus.json", {"gpus": [{**gpus[0], "slices": [held]}, gpus[1]]})
        _until(lambda: _refusal(url) != "", "a slice that is gone is given to nobody")
        assert exporter.log.read_text().count("GPU unhealthy") == 1
    finally:
        extender.stop()


def _until(holds: Callable[[], bool], what: str) -> None:
    end_s = time.monotonic() + 60.0
    while not holds():
        assert time.monotonic() < end_s, f"not in time: {what}"
        time.sleep(0.05)


def _refusal(extender_url: str) -> str:
    """Why the node is out for a pod that asks for a slice; empty where it is not."""
    body = {"Pod": asking("uid-new"), "Nodes": None, "NodeNames": ["gpu-1"]}
    reply = httpx2.post(f"{extender_url}/filter", json=body, trust_env=False, timeout=10)
    assert reply.status_code == 200
    out: dict[str, str] = (reply.json()["FailedNodes"] or {}) | (reply.json()["FailedAndUnresolvableNodes"] or {})
    return out.get("gpu-1", "")


def _digest(exporter: Exporter) -> NodeDigest:
    reply = httpx2.get(f"{exporter.url}{DIGEST_PATH}", trust_env=False, timeout=10)
    return msgspec.json.decode(reply.content, type=NodeDigest)


def _asked_for(digest: NodeDigest) -> int:
    """What the autoscaler asks for where demand needs two pods, and two are there and call themselves ready."""
    pods = [msgspec.convert(_ready_pod(f"uid-{number}"), Pod) for number in range(2)]
    pool = Pool("pool-1", mode=Mode.REACTIVE, max_replicas=9, service_s=0.15, behavior=Behavior(down_window_s=0.0))
    reading = Reading(Outcome.OK, demand=np.full(120, 9.0), end_s=1000.0)
    world = World(pods, digests={"gpu-1": digest})
    observation = observation_of(pool, 1000.0, 1.0, 2, reading, world, StartupBook())
    return decide(pool, observation, PoolMemory(last_replicas=2)).replicas


def _ready_pod(uid: str) -> dict[str, object]:
    ready = [{"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"}]
    return asking(uid, node="gpu-1") | {"status": {"phase": "Running", "conditions": ready}}
