"""`splatfleet autoscaler`: decisions with reasons from real demand; in Shadow mode until it has a cluster."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import click
from pydantic import Field
from pydantic_settings import SettingsConfigDict

from splatfleet.addresses import cannot_listen, check_url, parse_listen
from splatfleet.settings import DAY_S, DESCRIPTORS, WRITES_FILE, UsageError, VerbSettings, verb

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

    from autoscaler.decision import Decision
    from autoscaler.demand import DemandSource
    from autoscaler.exposition import DecisionMetrics
    from autoscaler.external_scaler import ExternalScalerServer
    from autoscaler.loop import Cluster
    from autoscaler.pool import Pool
    from autoscaler.runner import Report, Runner

HISTORY_BINS = 30_000  # more of them (bins of 5 s over two weeks) and the ticks that feed them outlast the probes


class AutoscalerSettings(VerbSettings):
    model_config = SettingsConfigDict(env_prefix="SPLATFLEET_AUTOSCALER_", populate_by_name=True)

    kubernetes: bool = Field(False, description="Decide for the PredictiveAutoscaler resources of a cluster.")
    namespace: str | None = Field(None, description="Only these resources; all namespaces without it.")
    kubeconfig: Path | None = Field(None, description="Otherwise KUBECONFIG, or the pod's service account.")
    context: str | None = Field(None, description="Context of the kubeconfig.")
    lease_namespace: str | None = Field(None, description="Namespace of the Lease; that of the context or the pod.")
    lease_s: float = Field(
        15.0, ge=1.0, le=3600, description="Seconds that a standby waits for a leader that is silent."
    )
    scene_labels: int = Field(
        0, ge=0, le=1_000_000, description="Label each node with so many scenes of its disk; 0 writes none."
    )
    placeholders: str = Field(
        "", description="PriorityClass of pods that ask for nodes ahead of the pods that will need them; empty: none."
    )
    placeholder_image: str = Field("registry.k8s.io/pause:3.10", description="Image of such a pod; it does nothing.")
    drain_s: float = Field(5.0, ge=0.0, le=3600, description="Seconds that a pod drains before the count is lowered.")
    prices: list[str] = Field([], description="CAPACITY_TYPE=PRICE of one slice (1/7 GPU) for one hour; repeatable.")
    node_digests: list[str] = Field([], description="NODE=URL of exporters that no pod watch would find.")
    scene_agents: list[str] = Field([], description="NODE=URL of scene agents that no pod watch would find.")
    scene_agent_ca: Path | None = Field(None, description="PEM CA of scene agents that serve over TLS.")
    scene_agent_token_file: Path | None = Field(None, description="File with the scene agents' token.")
    pools: list[Any] = Field(
        [], description="Pools: names, or JSON of their settings, an object or a list (see docs/autoscaler.md)."
    )
    prometheus: str | None = Field(None, description="URL of the Prometheus that holds the gateway's counters.")
    recorded: bool = Field(False, description="Read the history from the recording rules (bins of 60 s): cheaper.")
    gateway: str | None = Field(None, description="URL of the gateway to scrape where there is no Prometheus.")
    exporters: list[str] = Field([], description="URLs of the exporters to scrape beside the gateway.")
    interval_s: float = Field(15.0, gt=0, le=DAY_S, description="Seconds between two decisions.")
    bin_s: float | None = Field(
        None, gt=0, le=DAY_S, description="Width of a demand bin; 60 with Prometheus, else the interval."
    )
    history_days: float = Field(
        14.0, gt=0, le=400, description="Days of history that are asked of Prometheus; at most 30,000 bins."
    )
    deadline_s: float = Field(5.0, gt=0, le=DAY_S, description="Longest that one look at the source may take.")
    listen: str | None = Field(None, description="HOST:PORT for /metrics, /-/healthy and /-/ready; port 0 takes any.")
    keda_listen: str | None = Field(None, description="HOST:PORT for KEDA's external scaler; port 0 takes any.")
    keda_certificate: Path | None = Field(None, description="PEM certificate to show KEDA, with --keda-key.")
    keda_key: Path | None = Field(None, description="PEM key of --keda-certificate.")
    keda_client_ca: Path | None = Field(None, description="PEM CA; KEDA must show a certificate of it.")
    once: bool = Field(False, description="Decide once, as soon as there is demand to decide by, and stop.")
    gpu_budget: float | None = Field(None, gt=0, description="GPUs that all pools may have together.")
    decision_log: Path | None = Field(
        None, description="File to write every tick to, for `splatfleet replay`.", json_schema_extra=WRITES_FILE
    )
    json_file: Path | None = Field(
        None, alias="json", description="File that always holds the newest decisions, whole."
    )


def read_pools(settings: AutoscalerSettings) -> list[Pool]:
    """The pools that the settings name; raises UsageError."""
    from autoscaler.config import parse_pool

    if not settings.pools:
        raise UsageError("--pools: none is given (example: --pools renderer, or `pools:` in the file of --config)")
    pools = []
    for item in settings.pools:
        try:
            pool = parse_pool(item)
        except ValueError as error:
            raise UsageError(f"--pools: {error}") from error
        pools.append(dataclasses.replace(pool, tick_s=settings.interval_s))
    names = [pool.name for pool in pools]
    if len(set(names)) < len(names):
        raise UsageError(f"--pools: {', '.join(names)} holds a name twice")
    return pools


def open_source(settings: AutoscalerSettings, exporters: Callable[[], Sequence[str]] | None = None) -> DemandSource:
    """Prometheus or the direct scrape, as the settings say; raises UsageError. `exporters` finds those not given."""
    if (settings.prometheus is None) == (settings.gateway is None):
        raise UsageError("--prometheus or --gateway: give one of them (example: --gateway http://127.0.0.1:8080)")
    given = [("--prometheus", settings.prometheus), ("--gateway", settings.gateway)]
    for flag, url in [*given, *(("--exporters", url) for url in settings.exporters)]:
        if url is not None:
            check_url(url, flag)
    if settings.prometheus is not None:
        from autoscaler.prometheus import RECORDED_BIN_S, PrometheusDemand

        if settings.recorded and settings.bin_s not in (None, RECORDED_BIN_S):
            raise UsageError(f"--recorded: the recorded bins are of {RECORDED_BIN_S:g} s, not of {settings.bin_s:g}")
        return PrometheusDemand(
            settings.prometheus,
            settings.bin_s or RECORDED_BIN_S,
            min(settings.history_days * 86_400.0, HISTORY_BINS * (settings.bin_s or RECORDED_BIN_S)),
            settings.deadline_s,
            settings.recorded,
        )
    from autoscaler.scrape import DirectScrape

    found = exporters if exporters is not None and not settings.exporters else settings.exporters
    return DirectScrape(settings.gateway or "", found, settings.bin_s or settings.interval_s, settings.deadline_s)


def write_json(path: Path, decisions: Sequence[Decision], mode: str) -> None:
    """Put the decisions into the file in one rename, so that a reader never sees half of them.

    `mode` is `shadow` where nothing is written, `kubernetes` where each resource's own mode rules.
    """
    rows = [dataclasses.asdict(decision) for decision in decisions]
    for row in rows:
        if row["forecast"] is not None:
            row["forecast"]["quantiles"] = {f"{q:g}": v for q, v in row["forecast"]["quantiles"].items()}
    report = {"mode": mode, "decisions": rows}
    part = path.with_name(f".{path.name}.part")
    try:
        if path.is_relative_to(DESCRIPTORS):  # a stream gets a line a tick
            path.write_text(json.dumps(report) + "\n")
            return
        part.write_text(json.dumps(report, indent=1) + "\n")
        os.replace(part, path)
    except OSError as error:
        raise click.ClickException(f"--json {path}: {error.strerror}") from error


def open_log(path: Path | None) -> TextIO | None:
    """The decision log, begun anew: a log belongs to one run; raises UsageError."""
    if path is None:
        return None
    try:
        return path.open("w")
    except OSError as error:
        raise UsageError(f"--decision-log {path}: {error.strerror}") from error


def open_scaler(settings: AutoscalerSettings, registry: CollectorRegistry) -> ExternalScalerServer | None:
    """The external scaler where one is asked for; raises UsageError."""
    files = (settings.keda_certificate, settings.keda_key, settings.keda_client_ca)
    if settings.keda_listen is None:
        if any(files):
            raise UsageError("--keda-certificate: there is no --keda-listen to use it for")
        return None
    if (settings.keda_certificate is None) != (settings.keda_key is None) or (files[2] and files[0] is None):
        raise UsageError("--keda-certificate, --keda-key: give both (--keda-client-ca needs them as well)")
    from autoscaler.external_scaler import ExternalScalerServer
    from kube.tls import TlsError, TlsFiles

    certificates = None
    if settings.keda_certificate is not None and settings.keda_key is not None:
        certificates = TlsFiles(settings.keda_certificate, settings.keda_key, settings.keda_client_ca)
    listen = parse_listen(settings.keda_listen, "--keda-listen")
    try:
        fresh_s = max(3 * settings.interval_s, 10.0)
        server = ExternalScalerServer(listen, fresh_s, registry, certificates)
    except TlsError as error:
        raise UsageError(f"--keda-certificate: {error}") from error
    except OSError as error:
        raise UsageError(f"--keda-listen {settings.keda_listen}: {error}") from error
    print(f"external scaler listens on {listen[0]}:{server.port}", flush=True)
    return server


def run(settings: AutoscalerSettings) -> int:
    """Forecast demand and decide replicas.

    With --kubernetes it scales what the PredictiveAutoscaler resources of a cluster say; several of it elect a leader.
    Alone it has no cluster and runs in Shadow mode: every decision is printed with its reason and nothing is scaled.
    Demand comes from Prometheus, or from a direct scrape of the gateway and the exporters.
    """
    from autoscaler.exposition import DecisionMetrics

    with contextlib.ExitStack() as stack:
        metrics = DecisionMetrics()
        if settings.kubernetes:
            from splatfleet.autoscaler_kubernetes import open_cluster

            live = open_cluster(settings, metrics, stack)
            return _decide(settings, live, metrics, live.report, stack)
        pools = read_pools(settings)
        source = open_source(settings)
        from autoscaler.shadow import ShadowCluster

        shadow = ShadowCluster(pools, source, carried_out=settings.keda_listen is not None)
        return _decide(settings, shadow, metrics, None, stack)


def _decide(
    settings: AutoscalerSettings,
    cluster: Cluster,
    metrics: DecisionMetrics,
    also: Report | None,
    stack: contextlib.ExitStack,
) -> int:
    """Tick until told to stop; what is opened here ends with `stack`. `also` is told of each tick's decisions."""
    from autoscaler.runner import Runner

    log = open_log(settings.decision_log)
    if log is not None:
        stack.callback(log.close)
    runner = Runner(cluster, settings.interval_s, metrics, settings.gpu_budget, log)
    stack.callback(runner.close)
    scaler = open_scaler(settings, metrics.registry)
    if scaler is not None:
        stack.callback(scaler.close)
    for number in (signal.SIGTERM, signal.SIGINT):
        stack.callback(signal.signal, number, signal.signal(number, lambda *_: runner.stopping.set()))

    def report(decisions: Sequence[Decision]) -> None:
        if scaler is not None:
            scaler.post(decisions)
        if also is not None:
            also(decisions)
        for decision in decisions:
            print(f"{time.strftime('%H:%M:%S')} {decision.pool} {decision.explanation}", flush=True)
        if settings.json_file is not None:
            write_json(settings.json_file, decisions, "kubernetes" if settings.kubernetes else "shadow")

    _open_status(settings, metrics, runner, stack)
    if settings.once and settings.kubernetes:
        raise UsageError("--once decides for --pools; leave out --kubernetes")
    if settings.once:
        return 0 if _once(runner, cluster, settings, report) else 1
    runner.run(report)
    return 0


def _open_status(
    settings: AutoscalerSettings, metrics: DecisionMetrics, runner: Runner, stack: contextlib.ExitStack
) -> None:
    """`/metrics` and health where --listen asks for them; raises UsageError."""
    if settings.listen is None:
        return
    from autoscaler.exposition import StatusServer

    listen = parse_listen(settings.listen)
    try:
        server = StatusServer(listen, metrics.registry, runner.healthy, runner.ready)
    except OSError as error:
        raise cannot_listen(settings.listen, error) from error
    stack.callback(server.close)
    name = "autoscaler" if settings.kubernetes else "autoscaler (Shadow)"
    print(f"{name} listens on http://{listen[0]}:{server.port}", flush=True)


def _once(runner: Any, cluster: Any, settings: AutoscalerSettings, report: Any) -> bool:
    """One decision; a direct scrape needs a full bin between two looks before it knows a rate."""
    from autoscaler.demand import Outcome

    looks = 1 if settings.prometheus is not None else 4
    bin_s = settings.bin_s or settings.interval_s
    for look in range(looks):
        decisions = runner.tick()
        missing = any(outcome is Outcome.NO_DATA for outcome in cluster.outcomes.values())
        if not missing or look == looks - 1 or runner.stopping.wait(bin_s):
            break
    report(decisions)
    return all(cluster.outcomes.get(pool.name) in (Outcome.OK, Outcome.RESET) for pool in cluster.pools())


COMMAND = verb(
    "autoscaler",
    AutoscalerSettings,
    run,
    example="""
splatfleet autoscaler --pools renderer --gateway http://127.0.0.1:8080 --exporters http://127.0.0.1:9465 --interval-s 5
splatfleet autoscaler --config autoscaler.yaml --listen 127.0.0.1:9467
splatfleet autoscaler --kubernetes --prometheus http://prometheus:9090 --keda-listen 0.0.0.0:9469
""",
)
