"""GPUs and MIG slices through NVML. The library is loaded at first use, so a node without a driver costs nothing."""

from __future__ import annotations

import re
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from exporter.gpus import GpuUsage
from fleet.digest import GpuDigest, Slice
from fleet.mig import find_part

_MIG_NAME = re.compile(r"MIG ([0-9]+g\.[0-9]+gb\S*)")


@dataclass(slots=True)
class NvmlReading:
    """One pass over NVML; `starts` maps (GPU uuid, GPU instance id) to the first memory slice."""

    gpus: list[GpuDigest] = field(default_factory=list)
    usages: list[GpuUsage] = field(default_factory=list)
    starts: dict[tuple[str, int], int] = field(default_factory=dict)
    problem: str = ""


class Nvml:
    """An initialised NVML; make it with `open_nvml`. `library` is the module pynvml."""

    def __init__(self, library: Any) -> None:
        self._nvml = library

    def read(self) -> NvmlReading:
        """Read every GPU; one that does not answer is unhealthy, with the reason in `problem`."""
        reading = NvmlReading()
        for index in range(self._nvml.nvmlDeviceGetCount()):
            try:
                device = self._nvml.nvmlDeviceGetHandleByIndex(index)
                self._read_gpu(device, reading)
            except self._nvml.NVMLError as error:
                reading.problem = f"GPU {index}: {error}"
        return reading

    def _read_gpu(self, device: Any, reading: NvmlReading) -> None:
        nvml = self._nvml
        uuid = _text(nvml.nvmlDeviceGetUUID(device))
        product = _text(nvml.nvmlDeviceGetName(device))
        part = find_part(product)
        slices: list[Slice] = []
        healthy = True
        try:
            memory = nvml.nvmlDeviceGetMemoryInfo(device)
            reading.usages.append(GpuUsage(uuid, "", self._duty(device), memory.used, memory.total))
            slices = self._read_slices(device, uuid, reading)
        except nvml.NVMLError as error:
            healthy, reading.problem = False, f"GPU {uuid}: {error}"
        with suppress(nvml.NVMLError):  # parts without row remapping do not know
            healthy = healthy and not nvml.nvmlDeviceGetRemappedRows(device)[3]
        reading.gpus.append(GpuDigest(uuid, part.name if part else product, healthy, tuple(slices)))

    def _duty(self, device: Any) -> float | None:
        try:
            return float(self._nvml.nvmlDeviceGetUtilizationRates(device).gpu) / 100
        except self._nvml.NVMLError:  # not supported while MIG is on
            return None

    def _read_slices(self, device: Any, uuid: str, reading: NvmlReading) -> list[Slice]:
        nvml = self._nvml
        slices = []
        try:
            if nvml.nvmlDeviceGetMigMode(device)[0] != nvml.NVML_DEVICE_MIG_ENABLE:
                return []
            places = range(nvml.nvmlDeviceGetMaxMigDeviceCount(device))
        except nvml.NVMLError:  # a part without MIG
            return []
        for place in places:
            try:
                mig = nvml.nvmlDeviceGetMigDeviceHandleByIndex(device, place)
            except nvml.NVMLError:  # no slice at this place
                continue
            named = _MIG_NAME.search(_text(nvml.nvmlDeviceGetName(mig)))
            if named is None:
                continue
            instance = nvml.nvmlDeviceGetGpuInstanceId(mig)
            try:
                handle = nvml.nvmlDeviceGetGpuInstanceById(device, instance)
                start = int(nvml.nvmlGpuInstanceGetInfo(handle).placement.start)
            except nvml.NVMLError as error:
                reading.problem = f"GPU {uuid}: placement of its slices: {error} (NVML shows it to root alone)"
                continue
            reading.starts[uuid, instance] = start
            slices.append(Slice(named[1], start))
            with suppress(nvml.NVMLError):
                memory = nvml.nvmlDeviceGetMemoryInfo(mig)
                reading.usages.append(GpuUsage(uuid, f"{named[1]}@{start}", None, memory.used, memory.total))
        return sorted(slices, key=lambda cut: cut.start)


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value


def open_nvml() -> Nvml | None:
    """NVML where nvidia-ml-py and a driver are there, else None."""
    try:
        import pynvml

        pynvml.nvmlInit()
    except Exception:  # no package, no library, no driver: all mean that there is no GPU to see
        return None
    return Nvml(pynvml)
