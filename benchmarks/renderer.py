"""The renderer in one table: frames, loads by format, store and cache, and what serving adds."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import renderer_frames, renderer_loads, renderer_overhead
from benchmarks.machine import Machine, describe
from benchmarks.renderer_frames import FrameRow
from benchmarks.renderer_loads import LoadRow, StoreRow
from benchmarks.renderer_overhead import Overhead
from local_fleet.triton_files import TritonUnavailable
from renderer.cpu import compile_kernels, granted_cpus

SIZES = ((512, 512), (1280, 720))
LOADED_GAUSSIANS = 1_000_000
_LOAD_ROUNDS = 5


@dataclass(frozen=True, slots=True)
class Plan:
    """What to measure; no `threads` is one and all that are granted."""

    scenes_dir: Path | None
    frames: int = 60
    sizes: Sequence[tuple[int, int]] = SIZES
    threads: Sequence[int] = ()
    loaded_gaussians: int = LOADED_GAUSSIANS


@dataclass(frozen=True, slots=True)
class Report:
    """All figures of one run; `overhead` is None where no Triton runs, and `overhead_missing` says why."""

    machine: Machine
    rows: list[FrameRow]
    loads: list[LoadRow]
    store: list[StoreRow]
    overhead: Overhead | None
    overhead_missing: str
    load_average_after: float


def measure(plan: Plan, say: Callable[[str], None]) -> Report:
    """Everything, one after the other; files lie in a temporary folder that is gone afterwards."""
    machine = describe()
    compile_kernels()
    threads = plan.threads or sorted({1, granted_cpus()})
    rows = renderer_frames.measure(plan.scenes_dir, plan.frames, plan.sizes, threads, say)
    overhead, missing = None, ""
    with tempfile.TemporaryDirectory(prefix="splatfleet-bench-") as name:
        try:
            overhead = renderer_overhead.measure(Path(name), plan.scenes_dir, plan.frames, plan.sizes[0], say)
        except TritonUnavailable as error:
            missing = str(error)
    with tempfile.TemporaryDirectory(prefix="splatfleet-bench-") as name:
        loads, store = renderer_loads.measure(Path(name), plan.scenes_dir, plan.loaded_gaussians, _LOAD_ROUNDS, say)
    return Report(machine, rows, loads, store, overhead, missing, describe().load_average_1min)


def as_json(report: Report) -> dict[str, Any]:
    """The report as plain values, the figures that are compared between machines on top."""
    return {
        "calibration_ms": 1e3 * report.machine.calibration_s,
        "load_ms": {row.format: row.load_ms for row in report.loads},
        "overhead_ms_p50": report.overhead.overhead_ms_p50 if report.overhead else None,
        **dataclasses.asdict(report),
    }


def as_text(report: Report) -> str:
    """The report as a table."""
    machine = report.machine
    lines = [
        f"{machine.cpu}, {machine.cpus} CPUs, Python {machine.python}, load {machine.load_average_1min:.2f} before "
        f"and {report.load_average_after:.2f} after, calibration loop {machine.calibration_s * 1000:.1f} ms",
        "",
        f"{'scene':<18}{'Gaussians':>10}{'size':>11}{'threads':>9}"
        f"{'best ms':>9}{'p50 ms':>9}{'p99 ms':>9}{'frames/s':>10}",
    ]
    for row in report.rows:
        lines.append(
            f"{row.scene:<18}{row.gaussians:>10,}{row.size:>11}{row.threads:>9}{row.frame_ms_best:>9.1f}"
            f"{row.frame_ms_p50:>9.1f}{row.frame_ms_p99:>9.1f}{row.fps:>10.1f}"
        )
    lines += ["", f"{'load from page cache':<36}{'Gaussians':>11}{'SH':>4}{'MB':>8}{'ms':>10}"]
    for load in report.loads:
        told = f"{load.gaussians:>11,}{load.sh_degree:>4}{load.disk_bytes / 1e6:>8.1f}{load.load_ms:>10.1f}"
        lines.append(f"{load.format:<36}{told}")
    lines += ["", f"{'store and cache, the scene of the first row':<59}{'ms':>10}"]
    lines += [f"{row.what:<59}{row.ms:>10.3f}" for row in report.store]
    return "\n".join([*lines, "", _overhead_text(report)])


def _overhead_text(report: Report) -> str:
    over = report.overhead
    if over is None:
        return f"server overhead: not measured, {report.overhead_missing}"
    return (
        f"server overhead (gateway + Triton + encode over the render), {over.scene} {over.size}: "
        f"p50 {over.overhead_ms_p50:.1f} ms, p99 {over.overhead_ms_p99:.1f} ms; encode {over.encode_ms_p50:.1f} ms, "
        f"without the gateway {over.triton_ms_p50:.1f} ms; a frame {over.frame_ms_p50:.1f} ms at the client, "
        f"{over.bare_ms_p50:.1f} ms rendered in this process"
    )
