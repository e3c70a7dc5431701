"""`splatfleet simulate placement`: the extender's cores beside other schedulers' rules on one rig."""

from __future__ import annotations

import dataclasses
import json
import os
import time
from pathlib import Path
from typing import Literal

import click
from pydantic import Field
from pydantic_settings import SettingsConfigDict

from splatfleet.settings import UsageError, VerbSettings, verb


class PlacementSettings(VerbSettings):
    model_config = SettingsConfigDict(env_prefix="SPLATFLEET_SIMULATE_PLACEMENT_", populate_by_name=True)

    mix: Literal["small", "uniform", "large", "openb"] = Field("small", description="Which slices pods ask for.")
    load: float = Field(0.85, gt=0, le=10, description="Memory slices asked for over those there are.")
    cache_gb: float = Field(15.0, gt=0, le=1_000_000, description="Scene cache of a node in GB (10^9 bytes).")
    policies: str = Field("all", description="all, or names separated by commas.")
    seeds: int = Field(3, ge=1, le=1000, description="Runs of each policy, one seed each.")
    first_seed: int = Field(0, ge=0, description="The first of the seeds; prices are proved on others than found them.")
    arrivals: int = Field(20_000, ge=10, le=100_000_000, description="Pods in a run.")
    warm_up: int = Field(3_000, ge=0, le=100_000_000, description="First pods that no figure counts.")
    nodes: int = Field(25, ge=1, le=5000, description="Nodes of the fleet.")
    gpus: int = Field(4, ge=1, le=16, description="GPUs of a node, eight memory slices each.")
    scenes: int = Field(87, ge=0, le=100_000, description="Scenes; 0 for pods that name none.")
    scene_trace: Path | None = Field(
        None, description="Recorded requests (CSV timestamp_s or seq, object, [requests]; .gz too) as scenes of pods."
    )
    drift_per_h: float = Field(0.0, ge=0, le=1, description="Share of the scenes that change popularity each hour.")
    burst_pods: int = Field(0, ge=0, le=1_000_000, description="Pods of one rare scene within a second, half-way.")
    lost_nodes: int = Field(0, ge=0, le=5000, description="Nodes that fail half-way, for an hour.")
    fragmentation_s_per_slice: float | None = Field(
        None, ge=0, le=1e9, description="Our price of a stranded slice; else the extender's default."
    )
    eviction_weight: float | None = Field(
        None, ge=0, le=1e6, description="Our weight of evicted scenes; else the default."
    )
    crowding_weight: float | None = Field(None, ge=0, le=1e6, description="Our weight of crowding; else the default.")
    processes: int = Field(0, ge=0, le=64, description="Processes to run in; 0 is one a CPU.")
    json_file: Path | None = Field(None, alias="json", description="Write the figures here.")


def run(settings: PlacementSettings) -> None:
    """Place the same drawn pods under many policies and compare them.

    Pods arrive on MIG GPUs and ask for slices and scenes; a pod that fits nowhere is lost. Each figure has its mean
    over the seeds, with a 95 % interval in the JSON; in brackets how far a policy lies above ours on the same seeds.
    """
    from scheduler_extender.prices import Prices
    from simulator.placement_report import as_json, as_markdown, compare, policy_names
    from simulator.placement_workload import WorkloadError, WorkloadSpec
    from simulator.scene_trace import read_scene_trace

    if settings.scene_trace is not None:
        try:
            read_scene_trace(settings.scene_trace)
        except OSError as error:
            raise UsageError(f"--scene-trace {settings.scene_trace}: {error.strerror or error}") from error
        except ValueError as error:
            raise UsageError(f"--scene-trace {error}") from error
    names = policy_names() if settings.policies == "all" else tuple(settings.policies.split(","))
    unknown = [name for name in names if name not in policy_names()]
    if unknown:
        raise UsageError(f"--policies: {unknown[0]!r} is none of {', '.join(policy_names())}")
    try:
        spec = WorkloadSpec(
            mix=settings.mix,
            load=settings.load,
            nodes=settings.nodes,
            gpus_per_node=settings.gpus,
            arrivals=settings.arrivals,
            warm_up=settings.warm_up,
            scenes=settings.scenes,
            scene_trace=str(settings.scene_trace or ""),
            drift_per_h=settings.drift_per_h,
            burst_pods=settings.burst_pods,
            lost_nodes=settings.lost_nodes,
        )
    except WorkloadError as error:
        raise UsageError(str(error)) from error
    changed = {"fragmentation_s_per_slice": settings.fragmentation_s_per_slice}
    changed |= {"eviction_weight": settings.eviction_weight, "crowding_weight": settings.crowding_weight}
    prices = dataclasses.replace(Prices(), **{key: value for key, value in changed.items() if value is not None})
    started_s = time.perf_counter()
    processes = settings.processes or len(os.sched_getaffinity(0))
    seeds = range(settings.first_seed, settings.first_seed + settings.seeds)
    rows = compare(spec, settings.cache_gb * 1e9, names, seeds, prices, processes)
    took_s = time.perf_counter() - started_s
    click.echo(as_markdown(rows))
    click.echo(f"\n{settings.seeds} seeds, {spec.arrivals} pods each, {took_s:.0f} s in {processes} processes")
    if settings.json_file is not None:
        report = {
            "spec": dataclasses.asdict(spec),
            "cache_gb": settings.cache_gb,
            "seeds": settings.seeds,
            "first_seed": settings.first_seed,
            "prices": dataclasses.asdict(prices),
            "took_s": round(took_s, 1),
            "rows": as_json(rows),
        }
        settings.json_file.write_text(json.dumps(report, indent=1) + "\n")


COMMAND = verb(
    "placement",
    PlacementSettings,
    run,
    "splatfleet simulate placement --mix small --load 0.85 --cache-gb 15 --seeds 3 --json out.json\n"
    "splatfleet simulate placement --mix uniform --load 1.0 --scenes 0\n"
    "splatfleet simulate placement --scene-trace obj_servegen_mlarge.csv.gz --policies splatfleet,cost-0-4",
)
