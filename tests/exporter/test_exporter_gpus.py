"""GPUs: states of slices, what is placeable, and figures from DCGM and NVML (both synthetic: no GPU here)."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from exporter.gpus import (
    GpusFile,
    GpuUsage,
    check_gpus,
    count_slices,
    largest_placeable_slices,
    merge,
    read_dcgm,
    with_pods,
)
from exporter.nvml import Nvml, open_nvml
from fleet.digest import GpuDigest, Slice

DCGM_TEXT = """\
# HELP DCGM_FI_PROF_GR_ENGINE_ACTIVE Ratio of time the graphics engine is active.
# TYPE DCGM_FI_PROF_GR_ENGINE_ACTIVE gauge
DCGM_FI_PROF_GR_ENGINE_ACTIVE{gpu="0",UUID="GPU-a",GPU_I_PROFILE="1g.10gb",GPU_I_ID="7",Hostname="n"} 0.25
DCGM_FI_PROF_GR_ENGINE_ACTIVE{gpu="0",UUID="GPU-a",GPU_I_PROFILE="3g.40gb",GPU_I_ID="2",Hostname="n"} 0.5
DCGM_FI_DEV_FB_USED{gpu="0",UUID="GPU-a",GPU_I_PROFILE="1g.10gb",GPU_I_ID="7",Hostname="n"} 100
DCGM_FI_DEV_FB_FREE{gpu="0",UUID="GPU-a",GPU_I_PROFILE="1g.10gb",GPU_I_ID="7",Hostname="n"} 900
DCGM_FI_DEV_GPU_UTIL{gpu="1",UUID="GPU-b",Hostname="n"} 40
DCGM_FI_DEV_FB_USED{gpu="1",UUID="GPU-b",Hostname="n"} NaN
"""


def _gpu(*slices: Slice, healthy: bool = True, model: str = "H100-80") -> GpuDigest:
    return GpuDigest("GPU-a", model, healthy, slices)


def test_a_slice_is_used_where_a_renderer_names_it_or_the_layout_says_so() -> None:
    gpu = _gpu(Slice("1g.10gb", 0), Slice("1g.10gb", 1, True, "pod-1"), Slice("1g.10gb", 2), Slice("1g.10gb", 3, False))
    (owned,) = with_pods((gpu,), {"GPU-a/1g.10gb@2": "pod-2", "GPU-a/1g.10gb@1": "pod-x", "GPU-b/1g.10gb@0": "pod-3"})
    assert [cut.pod_uid for cut in owned.slices] == ["", "pod-1", "pod-2", ""]
    assert count_slices((owned,)) == {
        ("H100-80", "1g.10gb", "free"): 1,
        ("H100-80", "1g.10gb", "used"): 2,
        ("H100-80", "1g.10gb", "unhealthy"): 1,
    }
    sick = _gpu(Slice("1g.10gb", 0, True, "pod-1"), healthy=False)
    assert count_slices((sick,))["H100-80", "1g.10gb", "unhealthy"] == 1


@pytest.mark.parametrize(
    ("gpu", "memory_slices"),
    [
        (_gpu(), 8),
        (_gpu(Slice("3g.40gb", 0, True, "p")), 4),  # another 3g fits at 4
        (_gpu(Slice("3g.40gb", 0), Slice("3g.40gb", 4, True, "p")), 4),  # cut and free
        (_gpu(Slice("3g.40gb", 0, True, "p"), Slice("3g.40gb", 4, True, "q")), 0),
        (_gpu(Slice("3g.40gb", 0, False), Slice("3g.40gb", 4, True, "q")), 0),
        (_gpu(Slice("1g.10gb", 5, True, "p"), Slice("3g.40gb", 0, True, "q")), 2),  # 2g at 4 is taken; 1g.20gb at 6
        (_gpu(healthy=False), 0),
        (_gpu(Slice("1g.10gb", 7)), None),  # no such start
        (_gpu(model="Unheard-of 9000"), None),
    ],
)
def test_largest_placeable(gpu: GpuDigest, memory_slices: int | None) -> None:
    assert largest_placeable_slices(gpu) == memory_slices


def test_a_layout_that_no_gpu_has_is_refused() -> None:
    check_gpus(GpusFile((_gpu(Slice("1g.10gb", 0)),)))
    check_gpus(GpusFile((_gpu(Slice("anything", 99), model="Unheard-of 9000"),)))
    with pytest.raises(ValueError, match="overlaps"):
        check_gpus(GpusFile((_gpu(Slice("3g.40gb", 0), Slice("1g.10gb", 1)),)))
    with pytest.raises(ValueError, match="twice"):
        check_gpus(GpusFile((_gpu(), _gpu())))


def test_dcgm_per_slice() -> None:
    usages = {(u.gpu, u.slice): u for u in read_dcgm(DCGM_TEXT, {("GPU-a", 2): 4})}
    mib = 1024 * 1024
    assert usages["GPU-a", "1g.10gb@gi7"] == GpuUsage("GPU-a", "1g.10gb@gi7", 0.25, 100 * mib, 1000 * mib)
    assert usages["GPU-a", "3g.40gb@4"] == GpuUsage("GPU-a", "3g.40gb@4", 0.5, None, None)
    assert usages["GPU-b", ""] == GpuUsage("GPU-b", "", 0.4, None, None), "NaN is no data, percent becomes a ratio"


def test_the_first_source_that_knows_a_figure_wins() -> None:
    merged = merge([[GpuUsage("b", "", None, 1.0)], [GpuUsage("b", "", 0.0, 2.0), GpuUsage("a", "", 0.5)]])
    assert merged == [GpuUsage("a", "", 0.5), GpuUsage("b", "", 0.0, 1.0)]


class NvmlError(Exception):
    pass


class SyntheticNvml:
    """An H100 with two slices, and a GPU that fell off the bus, as pynvml would answer."""

    NVMLError = NvmlError
    NVML_DEVICE_MIG_ENABLE = 1

    def __init__(self, root: bool = True) -> None:
        self.root = root

    def nvmlDeviceGetCount(self) -> int:
        return 2

    def nvmlDeviceGetHandleByIndex(self, index: int) -> str:
        return f"gpu{index}"

    def nvmlDeviceGetUUID(self, device: str) -> str:
        return f"GPU-{device[-1]}"

    def nvmlDeviceGetName(self, device: str) -> str | bytes:
        return b"NVIDIA H100 80GB HBM3" + (b" MIG 1g.10gb" if device.startswith("mig") else b"")

    def nvmlDeviceGetMemoryInfo(self, device: str) -> SimpleNamespace:
        if device == "gpu1":
            raise NvmlError("GPU is lost")
        return SimpleNamespace(used=5, total=10)

    def nvmlDeviceGetUtilizationRates(self, _device: str) -> SimpleNamespace:
        raise NvmlError("Not Supported")

    def nvmlDeviceGetRemappedRows(self, _device: str) -> tuple[int, int, int, int]:
        return (0, 0, 0, 0)

    def nvmlDeviceGetMigMode(self, _device: str) -> tuple[int, int]:
        return (1, 1)

    def nvmlDeviceGetMaxMigDeviceCount(self, _device: str) -> int:
        return 7

    def nvmlDeviceGetMigDeviceHandleByIndex(self, _device: str, place: int) -> str:
        if place not in (0, 3):
            raise NvmlError("Not Found")
        return f"mig{place}"

    def nvmlDeviceGetGpuInstanceId(self, mig: str) -> int:
        return 7 + int(mig[-1])

    def nvmlDeviceGetGpuInstanceById(self, _device: str, instance: int) -> int:
        if not self.root:
            raise NvmlError("Insufficient Permissions")
        return instance

    def nvmlGpuInstanceGetInfo(self, handle: int) -> SimpleNamespace:
        return SimpleNamespace(placement=SimpleNamespace(start=10 - handle, size=1))


def test_nvml_slices_with_their_placements() -> None:
    reading = Nvml(SyntheticNvml()).read()
    assert reading.gpus == [
        GpuDigest("GPU-0", "H100-80", True, (Slice("1g.10gb", 0), Slice("1g.10gb", 3))),
        GpuDigest("GPU-1", "H100-80", False, ()),
    ]
    assert "GPU is lost" in reading.problem
    assert reading.starts == {("GPU-0", 7): 3, ("GPU-0", 10): 0}
    assert GpuUsage("GPU-0", "", None, 5, 10) in reading.usages, "no duty while MIG is on, rather than 0"
    assert GpuUsage("GPU-0", "1g.10gb@3", None, 5, 10) in reading.usages


def test_nvml_without_the_right_to_see_placements_says_so() -> None:
    reading = Nvml(SyntheticNvml(root=False)).read()
    assert reading.gpus[0].slices == ()
    assert reading.problem


def test_a_machine_without_a_driver_has_no_nvml() -> None:
    nvml = open_nvml()
    if nvml is not None:
        pytest.skip("this machine has an NVIDIA driver")
    assert nvml is None
