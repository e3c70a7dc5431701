"""The life of one pod on its node: admitted, created, started, probed, restarted, ended."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog

from fleet.labels import POOL_LABEL
from kube import writes
from kube.errors import KubeError, Refused
from local_fleet.kubelet.container_plan import ContainerPlan, PlanError
from local_fleet.kubelet.devices import NoDevice
from local_fleet.kubelet.pod_spec import RUN_PODS, RunContainer, RunPod
from local_fleet.kubelet.pod_status import Conditions, ContainerView, pod_status, written
from local_fleet.kubelet.probing import ProbeState, probe_once
from local_fleet.kubelet.processes import Process
from local_fleet.kubelet.surroundings import Surroundings

log = structlog.get_logger("kubelet")

POLL_S = 0.1
CONFIG_RETRY_S = 1.0
FORGET_TRIES = 60  # half a second apart: an API server that restarts comes back within
RESTART_MOST_S = 300.0


@dataclass(slots=True)
class Running:
    """One container and its process; `restart_s` is when it may start again, on the monotonic clock."""

    spec: RunContainer
    view: ContainerView
    plan: ContainerPlan | None = None
    process: Process | None = None
    startup: ProbeState | None = None
    readiness: ProbeState | None = None
    liveness: ProbeState | None = None
    restart_s: float | None = None


@dataclass(slots=True)
class Stages:
    """Monotonic moments of a pod's life, None where it has not come to it."""

    seen_s: float
    running_s: float | None = None
    ready_s: float | None = None
    ended_s: float | None = None


class PodWorker:
    """One thread per pod; others set `pod` to its newest state, and call `delete` and `lose`."""

    def __init__(self, pod: RunPod, around: Surroundings) -> None:
        self.pod = pod
        self.stages = Stages(time.monotonic())
        self.pod_ip = ""
        self.failure = ""  # why it was not admitted
        self._around = around
        self._folder: Path = around.pod_folder(pod)
        self._conditions = Conditions()
        self._containers = [
            Running(container, ContainerView(container.name, container.image)) for container in pod.spec.containers
        ]
        self._deleted = threading.Event()
        self._lost = threading.Event()
        self._written: dict[str, Any] = {}
        self._thread = threading.Thread(target=self._run, name=f"pod-{pod.metadata.name}", daemon=True)

    def start(self) -> PodWorker:
        self._thread.start()
        return self

    def delete(self) -> None:
        """The API server says that the pod is to end; its grace is in `pod`."""
        self._deleted.set()

    def lose(self) -> None:
        """Its node is gone: end at once, and tell nobody."""
        self._lost.set()
        self._deleted.set()

    def join(self, deadline_s: float) -> bool:
        self._thread.join(deadline_s)
        return not self._thread.is_alive()

    @property
    def ready(self) -> bool:
        return bool(self._containers) and all(running.view.ready for running in self._containers)

    @property
    def restarts(self) -> int:
        """Starts of its containers beyond the first."""
        return sum(running.view.restarts for running in self._containers)

    def processes(self) -> list[Process]:
        """What runs now, for faults."""
        return [running.process for running in self._containers if running.process is not None]

    def _run(self) -> None:
        try:
            if self._admit() and self._create():
                while not self._deleted.wait(POLL_S):
                    for running in self._containers:
                        self._look(running)
                    self._write("Running")
        except KubeError as error:
            log.error("pod given up", pod=self.pod.metadata.key, error=str(error))
        finally:
            self._end()

    def _admit(self) -> bool:
        try:
            self._around.allocate(self.pod)
        except NoDevice as error:
            self.failure = str(error)
            log.error("pod not admitted", pod=self.pod.metadata.key, reason=self.failure)
            self._patch({"phase": "Failed", "reason": "UnexpectedAdmissionError", "message": self.failure})
            self._deleted.wait()
            return False
        self._write("Pending")
        return True

    def _create(self) -> bool:
        """Wait as long as an image takes, then start every container; False where the pod ended before."""
        if self._deleted.wait(self._around.provision_s(self.pod)):
            return False
        self.pod_ip = self._around.addresses.take()
        while not self._deleted.is_set():
            try:
                for running in self._containers:
                    if running.plan is None:
                        running.plan = self._around.plan(running.spec, self.pod, self.pod_ip)
            except PlanError as error:
                self._wait_for_config(str(error))
                continue
            for running in self._containers:
                self._start(running)
            self.stages.running_s = time.monotonic()
            self._write("Running")
            return True
        return False

    def _wait_for_config(self, message: str) -> None:
        for running in self._containers:
            running.view.reason, running.view.message = "CreateContainerConfigError", message
        self._write("Pending")
        self._deleted.wait(CONFIG_RETRY_S)

    def _start(self, running: Running) -> None:
        assert running.plan is not None
        now_s, spec, view = time.monotonic(), running.spec, running.view
        running.process = self._around.start(running.plan, self.pod_ip, self._folder)
        running.restart_s = None
        running.startup = ProbeState.begin(spec.startup_probe, now_s) if spec.startup_probe else None
        running.readiness = ProbeState.begin(spec.readiness_probe, now_s) if spec.readiness_probe else None
        running.liveness = ProbeState.begin(spec.liveness_probe, now_s) if spec.liveness_probe else None
        view.state, view.reason, view.message, view.since_s = "running", "", "", time.time()
        view.started = running.startup is None
        view.ready = running.startup is None and running.readiness is None
        if self._around.faults.crashes(self.pod):
            running.process.kill()

    def _look(self, running: Running) -> None:
        """One look at a container: has it ended, is a probe due, may it start again."""
        now_s, process = time.monotonic(), running.process
        if process is None:
            if running.restart_s is not None and now_s >= running.restart_s:
                self._start(running)
            return
        code = process.exit_code()
        if code is not None:
            self._ended(running, process, code)
            return
        self._probe(running, now_s)

    def _probe(self, running: Running, now_s: float) -> None:
        if running.startup is not None:
            verdict = self._due(running, running.startup, now_s)
            if verdict:
                running.startup, running.view.started = None, True
                running.view.ready = running.readiness is None
            elif verdict is False:
                self._restart(running, "startup probe failed")
            return
        if running.readiness is not None:
            verdict = self._due(running, running.readiness, now_s)
            if verdict is not None:
                running.view.ready = verdict
        if running.liveness is not None and self._due(running, running.liveness, now_s) is False:
            self._restart(running, "liveness probe failed")

    def _due(self, running: Running, state: ProbeState, now_s: float) -> bool | None:
        if now_s < state.due_s or running.plan is None:
            return None
        success = probe_once(state.probe, running.spec, self.pod_ip, running.plan.environment)
        return state.take(success, time.monotonic())

    def _restart(self, running: Running, why: str) -> None:
        log.info("container restarts", pod=self.pod.metadata.key, container=running.spec.name, reason=why)
        if running.process is not None:
            running.process.kill()

    def _ended(self, running: Running, process: Process, code: int) -> None:
        """Note the exit and wait longer before each new start, as a kubelet does."""
        view = running.view
        exit_code = code if code >= 0 else 128 - code
        view.last_exit = {
            "exitCode": exit_code,
            "reason": "Completed" if exit_code == 0 else "Error",
            "message": process.reason(),
            "finishedAt": written(time.time()),
        }
        process.kill()
        running.process = None
        pause_s = min(self._around.restart_first_s * 2.0**view.restarts, RESTART_MOST_S)
        view.restarts += 1
        view.ready = view.started = False
        view.state, view.reason = "waiting", "CrashLoopBackOff"
        view.message = f"back-off {pause_s:.0f}s restarting failed container={view.name}"
        running.restart_s = time.monotonic() + pause_s

    def _write(self, phase: str) -> None:
        """Patch the status where it changed."""
        if self.ready and self.stages.ready_s is None:
            self.stages.ready_s = time.monotonic()
        views = [running.view for running in self._containers]
        status = pod_status(self._conditions, time.time(), phase, views, (self.pod_ip, self._around.node_ip))
        if status != self._written and self._patch(status):
            self._written = status

    def _patch(self, status: Mapping[str, Any]) -> bool:
        """Whether it was written; a pod that is gone already is no error, and other errors are tried again."""
        started = self.pod.status.start_time or written(time.time())
        metadata = self.pod.metadata
        try:
            writes.patch(
                self._around.connection,
                RUN_PODS.path(metadata.namespace, metadata.name, "status"),
                {"metadata": {"uid": metadata.uid}, "status": {"startTime": started, **status}},
                content_type=writes.STRATEGIC_PATCH,
            )
        except KubeError as error:
            if isinstance(error, Refused) and (error.absent or error.conflict):
                return True
            log.warning("pod status not written", pod=metadata.key, error=str(error))
            return False
        return True

    def _end(self) -> None:
        """Stop what runs within the grace, free everything, and let the API server forget the pod."""
        lost = self._lost.is_set()
        if not lost:
            self._stop_gently()
        for process in self.processes():
            process.kill()
        self._around.devices.release(self.pod.metadata.uid)
        if not lost:
            self._around.tell_devices()
        self._around.addresses.give_back(self.pod_ip)
        self.stages.ended_s = time.monotonic()
        if not lost:
            self._forget()

    def _stop_gently(self) -> None:
        """preStop, SIGTERM, and SIGKILL when the grace is over."""
        end_s = time.monotonic() + self.pod.grace_s
        pause_s = 0.0
        for running in self._containers:
            hook = running.spec.lifecycle.pre_stop if running.spec.lifecycle else None
            if hook is not None and hook.sleep is not None and running.process is not None:
                pause_s = max(pause_s, float(hook.sleep.seconds))
        self._lost.wait(min(pause_s, max(0.0, end_s - time.monotonic())))
        if self._around.before_end is not None and self.ready and self.pod.metadata.label(POOL_LABEL):
            self._around.before_end(self.pod_ip)
        for process in self.processes():
            process.terminate()
        while time.monotonic() < end_s and any(process.exit_code() is None for process in self.processes()):
            if self._lost.wait(0.05):
                return

    def _forget(self) -> None:
        metadata = self.pod.metadata
        path = RUN_PODS.path(metadata.namespace, metadata.name)
        for _ in range(FORGET_TRIES):
            try:
                writes.delete(self._around.connection, path, grace_s=0.0, uid=metadata.uid)
                return
            except Refused:  # gone already, or another pod of that name
                return
            except KubeError as error:
                log.warning("pod not forgotten", pod=metadata.key, error=str(error))
                time.sleep(0.5)
