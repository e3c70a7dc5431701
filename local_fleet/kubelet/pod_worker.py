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
from local_fleet.kubelet.container_plan import PlanError
from local_fleet.kubelet.devices import NoDevice
from local_fleet.kubelet.pod_spec import RUN_PODS, RunPod
from local_fleet.kubelet.pod_status import Conditions, pod_status, written
from local_fleet.kubelet.processes import Process
from local_fleet.kubelet.running_container import RunningContainer, Ways
from local_fleet.kubelet.surroundings import Surroundings

log = structlog.get_logger("kubelet")

POLL_S = 0.1
CONFIG_RETRY_S = 1.0
FORGET_TRIES = 60  # half a second apart: an API server that restarts comes back within


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
        spec = pod.spec
        once = self._ways("Never" if spec.restart_policy == "Never" else "OnFailure")
        kept = self._ways(spec.restart_policy)
        self._before = [
            RunningContainer(container, kept if container.restart_policy == "Always" else once)
            for container in spec.init_containers or ()
        ]
        self._containers = [RunningContainer(container, kept) for container in spec.containers]
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
        return sum(running.view.restarts for running in self._all)

    def processes(self) -> list[Process]:
        """What runs now, for faults."""
        return [running.process for running in self._all if running.process is not None]

    @property
    def _all(self) -> list[RunningContainer]:
        return [*self._before, *self._containers]

    def _ways(self, restart: str) -> Ways:
        around = self._around
        return Ways(
            start=lambda plan: around.start(plan, self.pod_ip, self._folder),
            crashes=lambda: around.faults.crashes(self.pod),
            restart_first_s=around.restart_first_s,
            restart=restart,
            pod=self.pod.metadata.key,
        )

    def _run(self) -> None:
        try:
            if self._admit() and self._create():
                while not self._deleted.wait(POLL_S):
                    for running in self._all:
                        running.look(self.pod_ip)
                    if all(running.done for running in self._containers):
                        self._complete()
                        return
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
                for running in self._all:
                    if running.plan is None:
                        running.plan = self._around.plan(running.spec, self.pod, self.pod_ip)
            except PlanError as error:
                self._wait_for_config(str(error))
                continue
            if not all(self._prepare(running) for running in self._before):
                return False
            for running in self._containers:
                running.start()
            self.stages.running_s = time.monotonic()
            self._write("Running")
            return True
        return False

    def _prepare(self, running: RunningContainer) -> bool:
        """Run an init container to its end, or start one that stays beside the others; False where the pod ended."""
        running.start()
        stays = running.spec.restart_policy == "Always"
        while not (running.view.started if stays else running.done):
            self._write("Pending")
            if self._deleted.wait(POLL_S):
                return False
            running.look(self.pod_ip)
        if not stays and running.view.exit_code != 0:  # the pod's policy is never to try again
            self._complete()
            return False
        return True

    def _complete(self) -> None:
        """Everything in it has ended for good: say so, and free what it had; the object stays until it is deleted."""
        succeeded = all(running.view.exit_code == 0 for running in self._all if running.done)
        while not self._deleted.is_set() and not self._write("Succeeded" if succeeded else "Failed"):
            self._deleted.wait(CONFIG_RETRY_S)
        self._around.release(self.pod.metadata.uid)
        self._deleted.wait()

    def _wait_for_config(self, message: str) -> None:
        for running in self._all:
            running.view.reason, running.view.message = "CreateContainerConfigError", message
        self._write("Pending")
        self._deleted.wait(CONFIG_RETRY_S)

    def _write(self, phase: str) -> bool:
        """Patch the status where it changed; whether it stands."""
        if self.ready and self.stages.ready_s is None:
            self.stages.ready_s = time.monotonic()
        views = [running.view for running in self._containers]
        before = [running.view for running in self._before]
        addresses = (self.pod_ip, self._around.node_ip)
        status = pod_status(self._conditions, time.time(), phase, (views, before), addresses)
        if status != self._written and self._patch(status):
            self._written = status
        return status == self._written

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
        self._around.release(self.pod.metadata.uid)
        self._around.addresses.give_back(self.pod_ip)
        self.stages.ended_s = time.monotonic()
        if not lost:
            self._forget()

    def _stop_gently(self) -> None:
        """preStop, SIGTERM, and SIGKILL when the grace is over."""
        end_s = time.monotonic() + self.pod.grace_s
        pause_s = 0.0
        for running in self._all:
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
