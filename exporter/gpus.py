"""GPUs of the node: who takes which slice, what could still be placed, and how busy each GPU and slice is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from exporter.prometheus_text import parse
from fleet.digest import GpuDigest, Slice
from fleet.mig import MigError, MigProfile, find_part, largest_placeable, occupancy_mask, part_of

_BYTES_PER_MIB = 1024 * 1024
# DCGM's fields as dcgm-exporter names them. `DCGM_FI_DEV_GPU_UTIL` (percent) is not produced for MIG slices.
_DCGM_ACTIVE = "DCGM_FI_PROF_GR_ENGINE_ACTIVE"
_DCGM_UTILIZATION_PERCENT = "DCGM_FI_DEV_GPU_UTIL"
_DCGM_USED_MIB = "DCGM_FI_DEV_FB_USED"
_DCGM_FREE_MIB = "DCGM_FI_DEV_FB_FREE"
_DCGM_RESERVED_MIB = "DCGM_FI_DEV_FB_RESERVED"
_DCGM_WANTED = {_DCGM_ACTIVE, _DCGM_UTILIZATION_PERCENT, _DCGM_USED_MIB, _DCGM_FREE_MIB, _DCGM_RESERVED_MIB}


@dataclass(frozen=True, slots=True)
class GpuUsage:
    """What one source knows of one GPU, or of one slice of it; None is not known."""

    gpu: str
    slice: str = ""  # `1g.10gb@2`; empty for the whole GPU
    duty_ratio: float | None = None
    used_bytes: float | None = None
    total_bytes: float | None = None


def merge(sources: Iterable[Iterable[GpuUsage]]) -> list[GpuUsage]:
    """One entry per GPU and slice; each figure from the first source that knows it."""
    merged: dict[tuple[str, str], GpuUsage] = {}
    for usage in (usage for source in sources for usage in source):
        known = merged.get((usage.gpu, usage.slice), usage)
        merged[usage.gpu, usage.slice] = GpuUsage(
            usage.gpu,
            usage.slice,
            _first(known.duty_ratio, usage.duty_ratio),
            _first(known.used_bytes, usage.used_bytes),
            _first(known.total_bytes, usage.total_bytes),
        )
    return [merged[key] for key in sorted(merged)]


def _first(left: float | None, right: float | None) -> float | None:
    return right if left is None else left


def read_dcgm(text: str, starts: Mapping[tuple[str, int], int]) -> list[GpuUsage]:
    """Read a dcgm-exporter's text; `starts` maps (GPU uuid, GPU instance id) to the slice's first memory slice.

    DCGM knows a slice by its instance id; where nobody knows the start, the slice is named `1g.10gb@gi7`.
    Raises ExpositionError.
    """
    values: dict[tuple[str, str], dict[str, float]] = {}
    for sample in parse(text, _DCGM_WANTED):
        uuid, instance = sample.labels.get("UUID", ""), sample.labels.get("GPU_I_ID", "")
        cut = ""
        if instance.isdigit():
            start = starts.get((uuid, int(instance)), f"gi{instance}")
            cut = f"{sample.labels.get('GPU_I_PROFILE', '')}@{start}"
        if uuid:
            values.setdefault((uuid, cut), {})[sample.name] = sample.value
    return [_dcgm_usage(uuid, cut, of) for (uuid, cut), of in values.items()]


def _dcgm_usage(uuid: str, cut: str, of: dict[str, float]) -> GpuUsage:
    duty = of.get(_DCGM_ACTIVE)
    if duty is None and _DCGM_UTILIZATION_PERCENT in of:
        duty = of[_DCGM_UTILIZATION_PERCENT] / 100
    used_mib, free_mib = of.get(_DCGM_USED_MIB), of.get(_DCGM_FREE_MIB)
    total_mib = None
    if used_mib is not None and free_mib is not None:
        total_mib = used_mib + free_mib + of.get(_DCGM_RESERVED_MIB, 0.0)
    return GpuUsage(
        uuid,
        cut,
        duty,
        used_mib * _BYTES_PER_MIB if used_mib is not None else None,
        total_mib * _BYTES_PER_MIB if total_mib is not None else None,
    )


def slice_name(uuid: str, cut: Slice) -> str:
    """`<gpu uuid>/<profile>@<start>`, as the renderers file names a slice."""
    return f"{uuid}/{cut.profile}@{cut.start}"


def with_pods(gpus: Iterable[GpuDigest], pod_of_slice: Mapping[str, str]) -> tuple[GpuDigest, ...]:
    """The GPUs with each slice's pod: what the layout says, else who of the renderers names the slice."""
    return tuple(
        replace(
            gpu,
            slices=tuple(
                cut if cut.pod_uid else replace(cut, pod_uid=pod_of_slice.get(slice_name(gpu.uuid, cut), ""))
                for cut in gpu.slices
            ),
        )
        for gpu in gpus
    )


def count_slices(gpus: Iterable[GpuDigest]) -> dict[tuple[str, str, str], int]:
    """Slices by (GPU model, profile, state); a profile that exists has all three states. Unhealthy beats used."""
    counts: Counter[tuple[str, str, str]] = Counter()
    for gpu in gpus:
        for cut in gpu.slices:
            for state in ("free", "used", "unhealthy"):
                counts[gpu.model, cut.profile, state] += 0
            state = "unhealthy" if not (gpu.healthy and cut.healthy) else "used" if cut.pod_uid else "free"
            counts[gpu.model, cut.profile, state] += 1
    return dict(counts)


def largest_placeable_slices(gpu: GpuDigest) -> int | None:
    """Memory slices of the largest profile that a pod could still get here; None where the layout is not known.

    Counts a slice that exists, is healthy and free, as well as one that could be cut from uncut memory.
    """
    if not gpu.healthy:
        return 0
    try:
        part = part_of(gpu.model)
        uncut = largest_placeable(
            occupancy_mask(gpu.model, [(cut.profile, cut.start) for cut in gpu.slices]), gpu.model
        )
        roles = [part.role_of(MigProfile.parse(cut.profile)) for cut in gpu.slices if cut.healthy and not cut.pod_uid]
    except MigError:
        return None
    return max((role.memory_slices for role in [uncut, *roles] if role is not None), default=0)


@dataclass(frozen=True, slots=True)
class GpusFile:
    """The layout file of a node without NVML: its GPUs as the digest says them."""

    gpus: tuple[GpuDigest, ...]


def check_gpus(file: GpusFile) -> None:
    """Raise ValueError for a layout that no GPU can have; a model that is not known passes, for want of a layout."""
    uuids = [gpu.uuid for gpu in file.gpus]
    if len(set(uuids)) < len(uuids):
        raise ValueError(f"a GPU uuid stands twice in {uuids}")
    for gpu in file.gpus:
        if find_part(gpu.model) is not None:
            try:
                occupancy_mask(gpu.model, [(cut.profile, cut.start) for cut in gpu.slices])
            except MigError as error:
                raise ValueError(f"GPU {gpu.uuid}: {error}") from error
