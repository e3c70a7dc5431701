"""`splatfleet autoscaler --kubernetes`: the parts that follow and write a cluster, put together."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from splatfleet.addresses import parse_node_digests
from splatfleet.settings import UsageError

if TYPE_CHECKING:
    from autoscaler.exposition import DecisionMetrics
    from autoscaler.kubernetes_cluster import LiveCluster
    from splatfleet.autoscaler import AutoscalerSettings

LEASE = "splatfleet-autoscaler"
SYNC_WITHIN_S = 20.0
WRITE_SHARE = 0.4  # of the time that a leader may write on one renewal, one write may take


def open_cluster(settings: AutoscalerSettings, metrics: DecisionMetrics, stack: contextlib.ExitStack) -> LiveCluster:
    """A cluster that is followed and, while we lead, written to; raises UsageError and ClickException."""
    from autoscaler.kubernetes_cluster import LiveCluster
    from autoscaler.kubernetes_metrics import KubernetesMetrics
    from autoscaler.node_services import Addresses
    from autoscaler.placeholders import Placeholders, Style
    from autoscaler.scene_labels import SceneLabels
    from autoscaler.target import Writes
    from autoscaler.warm_calls import WarmCalls
    from autoscaler.watches import Watches
    from kube.connection import Connection
    from kube.election import Terms
    from kube.errors import ConfigError
    from kube.events import EventRecorder
    from kube.lease import Elector
    from kube.tls import ClientTls, TlsError
    from splatfleet.autoscaler import open_source

    if settings.pools:
        raise UsageError("--pools: with --kubernetes the pools are the PredictiveAutoscaler resources")
    given = Addresses(
        parse_node_digests(settings.node_digests, "--node-digests"),
        parse_node_digests(settings.scene_agents, "--scene-agents"),
        "https" if settings.scene_agent_ca is not None else "http",
    )
    try:
        agent_tls = ClientTls(settings.scene_agent_ca) if settings.scene_agent_ca is not None else None
        connection = Connection.open(settings.kubeconfig, settings.context)
    except ConfigError as error:
        raise UsageError(f"--kubernetes: {error}") from error
    except TlsError as error:
        raise UsageError(f"--scene-agent-ca: {error}") from error
    stack.callback(connection.close)
    poll_s = min(settings.interval_s, 5.0)
    watches = Watches(connection, settings.namespace, given, poll_s, bool(settings.placeholders))
    source = open_source(settings, watches.node_services.exporters)
    terms = Terms(settings.lease_s, settings.lease_s * 2 / 3, settings.lease_s * 2 / 15)
    elector = Elector(connection, settings.lease_namespace or connection.namespace, LEASE, terms)
    writes = Writes(connection, elector.guard, terms.renew_s * WRITE_SHARE, settings.drain_s)
    events = EventRecorder(connection, "splatfleet-autoscaler", elector.identity)
    live = LiveCluster(watches, source, writes, events, lambda: elector.leads, settings.interval_s)
    live.shadows_count = settings.keda_listen is not None
    calls = WarmCalls(watches.node_services.agent, live.pod_url, time.time, settings.scene_agent_token_file, agent_tls)
    live.warm_calls = calls
    if settings.scene_labels:
        live.scene_labels = SceneLabels(
            connection,
            watches.nodes,
            watches.digests,
            elector.guard,
            settings.scene_labels,
            terms.renew_s * WRITE_SHARE,
        )
    if settings.placeholders:
        style = Style(settings.placeholders, settings.placeholder_image)
        write_s = terms.renew_s * WRITE_SHARE
        live.placeholders = Placeholders(connection, style, watches.placeholders, elector.guard, write_s)
    live.cost.prices = parse_prices(settings.prices)
    live.on_startup = KubernetesMetrics(
        metrics.registry, lambda: elector.leads, watches.ages_s, lambda: calls.failed, live.cost
    ).startup
    stack.callback(calls.close)
    watches.start()
    stack.callback(watches.close)
    missing = watches.wait_synced(SYNC_WITHIN_S)
    if missing:
        raise click.ClickException(f"{connection.host}: not listed within {SYNC_WITHIN_S:.0f} s: {missing}")
    elector.start()
    stack.callback(elector.stop)  # first of all to end: it writes no more, and another one leads soon
    print(f"follows {connection.host} as {elector.identity}", flush=True)
    return live


def parse_prices(pairs: Sequence[str]) -> dict[str, float]:
    """`CAPACITY_TYPE=PRICE` texts; raises UsageError."""
    prices: dict[str, float] = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        try:
            price = float(text)
        except ValueError:
            price = math.nan
        if not (equals and name and 0.0 <= price < math.inf):
            raise UsageError(f"--prices {pair!r}: expected CAPACITY_TYPE=PRICE of one slice for one hour (spot=0.12)")
        prices[name] = price
    return prices
