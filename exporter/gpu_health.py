"""Which GPUs and slices DCGM calls sick: a critical Xid, or memory rows that could not be remapped."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from exporter.prometheus_text import parse
from fleet.digest import GpuDigest, Slice

_XID = "DCGM_FI_DEV_XID_ERRORS"  # the last Xid since the driver was loaded; 0: none
_REMAP_FAILURE = "DCGM_FI_DEV_ROW_REMAP_FAILURE"
# Faults of a program that leave the GPU whole, as NVIDIA's device plugin passes over them; all others are the GPU's.
# https://docs.nvidia.com/deploy/xid-errors/
_PROGRAM_XIDS = frozenset((0, 13, 31, 43, 45, 68, 109))

WHOLE_GPU = -1
Faults = Mapping[int, str]  # first memory slice of the slice that is sick, or WHOLE_GPU -> why


def read_faults(text: str, starts: Mapping[tuple[str, int], int]) -> dict[str, Faults]:
    """Faults by GPU uuid of a dcgm-exporter's text, empty where it says that a GPU is sound.

    DCGM knows a slice by its GPU instance, and `starts` maps (GPU uuid, instance) to its first memory slice; where
    nobody knows it, the whole GPU is taken for sick. A GPU of which nothing is said has no entry.
    Raises ExpositionError.
    """
    faults: dict[str, dict[int, str]] = {}
    for sample in parse(text, {_XID, _REMAP_FAILURE}):
        uuid, instance = sample.labels.get("UUID", ""), sample.labels.get("GPU_I_ID", "")
        if not uuid:
            continue
        of_gpu = faults.setdefault(uuid, {})
        at = starts.get((uuid, int(instance)), WHOLE_GPU) if instance.isdigit() else WHOLE_GPU
        if sample.name == _XID and int(sample.value) not in _PROGRAM_XIDS:
            of_gpu[at] = f"Xid {int(sample.value)} {sample.labels.get('err_msg', '')}".strip()
        elif sample.name == _REMAP_FAILURE and sample.value > 0:
            of_gpu[WHOLE_GPU] = "memory rows could not be remapped"
    return dict(faults)


def with_faults(gpus: Iterable[GpuDigest], faults: Mapping[str, Faults]) -> tuple[GpuDigest, ...]:
    """The GPUs with what is sick marked so; what another source called unhealthy stays it."""

    def slices(gpu: GpuDigest, of_gpu: Faults) -> tuple[Slice, ...]:
        return tuple(replace(cut, healthy=cut.healthy and cut.start not in of_gpu) for cut in gpu.slices)

    return tuple(
        replace(gpu, healthy=gpu.healthy and WHOLE_GPU not in of_gpu, slices=slices(gpu, of_gpu))
        if (of_gpu := faults.get(gpu.uuid))
        else gpu
        for gpu in gpus
    )
