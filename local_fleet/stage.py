"""The stage of a demo, local or on Kubernetes: its folder, scenes and traffic, the load client, the score."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import httpx2
import numpy as np
import structlog

from local_fleet.child import Child, verb_child
from local_fleet.demo_plan import ZIPF_EXPONENT, prepare
from local_fleet.demo_settings import DemoSettings
from local_fleet.live import LiveView
from local_fleet.load import FrameRecord
from local_fleet.machine import MachineLoad, describe, wait_until_quiet
from local_fleet.orbits import encode_bodies, orbit_of
from local_fleet.replay import BIN_S, write_trace
from local_fleet.report import FrameSample, Run
from local_fleet.scorecard import RunTotals, read_records, score
from local_fleet.timeline import Timeline

LOG_PROCESSORS: list[structlog.typing.Processor] = [
    structlog.processors.TimeStamper(fmt="iso"),
    structlog.processors.JSONRenderer(),
]
START_DELAY_S = 2.5  # the load client imports and plans in this time
LAST_ANSWERS_S = 30.0


class Stage:
    """What every demo has: a folder, scenes, traffic, the load client, a timeline, and the score of it all."""

    def __init__(self, settings: DemoSettings, view: LiveView, stack: contextlib.ExitStack) -> None:
        self.begun_s = time.monotonic()
        self.settings = settings
        self.view = view
        self.stack = stack
        self.folder = Path(tempfile.mkdtemp(prefix="splatfleet-demo-"))
        if settings.keep:
            view.note(f"the run's folder: {self.folder}")
        else:
            stack.callback(shutil.rmtree, self.folder, ignore_errors=True)
        log = stack.enter_context((self.folder / "fleet.log").open("a", buffering=1))
        structlog.configure(logger_factory=structlog.PrintLoggerFactory(log), processors=LOG_PROCESSORS)
        stack.callback(structlog.reset_defaults)
        self.records, self.frames = self.folder / "records.jsonl", self.folder / "frames"
        self.machine = MachineLoad()
        self.machine.start()
        stack.callback(self.machine.stop)
        wait_until_quiet(settings.quiet_wait_s, view.note)
        self.traffic, self.scenes, self.fit = prepare(settings, self.folder, view.note)
        self.frame_floor_s = settings.frame_floor_s / self.fit.rate_factor
        self.described = describe()
        self.first_frame_s: float | None = None
        self.timeline = Timeline(
            title=settings.trace.name if settings.trace else "built-in days",
            autoscaler=settings.autoscaler,
            placement=settings.placement,
            duration_s=settings.duration_s,
            day_s=self.traffic.day_s,
            bin_s=BIN_S,
            history_per_s=(self.traffic.history / BIN_S).tolist(),
        )

    def first_frame(self, gateway_url: str) -> None:
        """One frame through the whole path before the traffic; raises RuntimeError where none comes."""
        entry = next(iter(self.scenes.catalogue.entries.values()))
        body = encode_bodies(orbit_of(entry), self.fit.size, {"format": "jpeg"}, poses=1)[0]
        answer = httpx2.post(
            gateway_url + "/v1/render", content=body, headers={"content-type": "application/json"}, timeout=30.0
        )
        if answer.status_code != 200:
            raise RuntimeError(f"the first frame did not come: {answer.status_code} {answer.text[:200]}")
        self.first_frame_s = round(time.monotonic() - self.begun_s, 2)
        self.view.note(f"first frame {self.first_frame_s:.1f} s after the start")

    def start_load(self, gateway_url: str) -> tuple[Child, float]:
        """Start the client; the replay's zero is a moment shortly ahead."""
        trace = self.folder / "replay.csv"
        write_trace(self.traffic.traffic, trace)
        zero_s = time.monotonic() + START_DELAY_S
        arguments = {
            "--gateway": gateway_url,
            "--trace": trace,
            "--seconds-per-day": 86_400,  # the trace is in the time of the replay already
            "--duration": self.traffic.traffic.duration_s,
            "--mean-rate": self.traffic.traffic.mean_per_s,
            "--zipf": ZIPF_EXPONENT,
            "--catalogue": self.scenes.catalogue_file,
            "--size": "{}x{}".format(*self.fit.size),
            "--seed": self.settings.seed,
            "--records": self.records,
            "--frames": self.frames,
            "--frame-every": max(1, round(self.settings.duration_s * self.traffic.traffic.mean_per_s / 48)),
            "--start-at": time.time() + START_DELAY_S,
        }
        flags = [str(part) for pair in arguments.items() for part in pair]
        load = verb_child("load", flags, self.folder / "logs" / "load.log")
        self.stack.callback(load.stop)
        return load, zero_s

    def run(self, totals: RunTotals, pod_names: Mapping[str, str] | None = None) -> Run:
        """What the requests' records and these totals come to; `pod_names` by UID, where the two differ."""
        records = read_records(self.records)
        credits = self.scenes.credits
        samples = [
            FrameSample(path, scene, t_s, (pod_names or {}).get(pod, pod), credits.get(scene, ""))
            for path, scene, t_s, pod in _sampled(self.frames, records)
        ]
        return Run(self.timeline, score(records, totals, self.timeline), records, samples, credits)

    def told(self, pod_budget_bytes: int, starts: Sequence[float]) -> dict[str, object]:
        """The settings that shaped the run, as the scorecard keeps them; `starts` are seconds from ask to ready."""
        settings = self.settings
        return {
            "traffic": self.timeline.title,
            "scenes": len(self.scenes.ids),
            "mean_rate_per_s": round(self.traffic.traffic.mean_per_s, 2),
            "busiest_per_s": round(self.traffic.busiest_per_s, 1),
            "day_s": self.traffic.day_s,
            "frame_size": "{}x{}".format(*self.fit.size),
            "frame_floor_s": round(self.frame_floor_s, 3),
            "provision_s": settings.provision_s,
            "fetch_bytes_per_s": settings.fetch_bytes_per_s,
            "pod_budget_bytes": pod_budget_bytes,
            "warm_up": settings.warm_up,
            "startup_p50_s": round(float(np.median(starts)), 2) if starts else None,
        }


def _sampled(folder: Path, records: list[FrameRecord]) -> Iterator[tuple[Path, str, float, str]]:
    """The frames that the load client kept, `<number>-<scene>.jpg`, with the record of their request."""
    by_number = dict(enumerate(sorted(records, key=lambda record: record.t_s)))
    for path in sorted(folder.glob("*-*.jpg")):
        number, _, scene = path.stem.partition("-")
        record = by_number.get(int(number))
        yield path, scene, record.t_s if record else 0.0, record.pod if record else ""
