"""One container of a pod and its process: started, probed, restarted with growing pauses, or done."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import structlog

from local_fleet.kubelet.container_plan import ContainerPlan
from local_fleet.kubelet.pod_spec import RunContainer
from local_fleet.kubelet.pod_status import ContainerView
from local_fleet.kubelet.probing import ProbeState, probe_once
from local_fleet.kubelet.processes import Process

log = structlog.get_logger("kubelet")

RESTART_MOST_S = 300.0


@dataclass(frozen=True, slots=True)
class Ways:
    """How the containers of a pod are started; `crashes` is a fault on demand. `restart` is the pod's policy."""

    start: Callable[[ContainerPlan], Process]
    crashes: Callable[[], bool]
    restart_first_s: float
    restart: str
    pod: str  # for the log


class RunningContainer:
    """`restart_s` is when it may start again, on the monotonic clock; `done` is a container that ends for good."""

    def __init__(self, spec: RunContainer, ways: Ways) -> None:
        self.spec = spec
        self.view = ContainerView(spec.name, spec.image)
        self.plan: ContainerPlan | None = None
        self.process: Process | None = None
        self.restart_s: float | None = None
        self._ways = ways
        self._startup: ProbeState | None = None
        self._readiness: ProbeState | None = None
        self._liveness: ProbeState | None = None

    @property
    def done(self) -> bool:
        return self.view.state == "terminated"

    def start(self) -> None:
        """Start its process, which must be planned."""
        assert self.plan is not None
        now_s, spec, view = time.monotonic(), self.spec, self.view
        self.process = self._ways.start(self.plan)
        self.restart_s = None
        self._startup = ProbeState.begin(spec.startup_probe, now_s) if spec.startup_probe else None
        self._readiness = ProbeState.begin(spec.readiness_probe, now_s) if spec.readiness_probe else None
        self._liveness = ProbeState.begin(spec.liveness_probe, now_s) if spec.liveness_probe else None
        view.state, view.reason, view.message, view.since_s = "running", "", "", time.time()
        view.started = self._startup is None
        view.ready = self._startup is None and self._readiness is None
        if self._ways.crashes():
            self.process.kill()

    def look(self, pod_ip: str) -> None:
        """One look: has it ended, is a probe due, may it start again."""
        now_s, process = time.monotonic(), self.process
        if process is None:
            if self.restart_s is not None and now_s >= self.restart_s:
                self.start()
            return
        code = process.exit_code()
        if code is not None:
            self._ended(process, code)
            return
        self._probe(pod_ip, now_s)

    def _probe(self, pod_ip: str, now_s: float) -> None:
        if self._startup is not None:
            verdict = self._due(self._startup, pod_ip, now_s)
            if verdict:
                self._startup, self.view.started = None, True
                self.view.ready = self._readiness is None
            elif verdict is False:
                self._restart("startup probe failed")
            return
        if self._readiness is not None:
            verdict = self._due(self._readiness, pod_ip, now_s)
            if verdict is not None:
                self.view.ready = verdict
        if self._liveness is not None and self._due(self._liveness, pod_ip, now_s) is False:
            self._restart("liveness probe failed")

    def _due(self, state: ProbeState, pod_ip: str, now_s: float) -> bool | None:
        if now_s < state.due_s or self.plan is None:
            return None
        success = probe_once(state.probe, self.spec, pod_ip, self.plan.environment)
        return state.take(success, time.monotonic())

    def _restart(self, why: str) -> None:
        log.info("container restarts", pod=self._ways.pod, container=self.spec.name, reason=why)
        if self.process is not None:
            self.process.kill()

    def _ended(self, process: Process, code: int) -> None:
        """Note the exit; wait longer before each new start, as a kubelet does, where the policy wants one."""
        view = self.view
        view.exit_code = code if code >= 0 else 128 - code
        view.since_s = time.time()
        view.reason, view.message = "Completed" if view.exit_code == 0 else "Error", process.reason()
        process.kill()
        self.process = None
        view.ready = view.started = False
        if self._ways.restart == "Never" or (self._ways.restart == "OnFailure" and view.exit_code == 0):
            view.state = "terminated"
            return
        view.last_exit = view.termination()
        pause_s = min(self._ways.restart_first_s * 2.0**view.restarts, RESTART_MOST_S)
        view.restarts += 1
        view.state, view.reason = "waiting", "CrashLoopBackOff"
        view.message = f"back-off {pause_s:.0f}s restarting failed container={view.name}"
        self.restart_s = time.monotonic() + pause_s
