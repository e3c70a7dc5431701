"""Every metric that Splatfleet writes: name, type, labels, help, who reads it.

A name exists in the file of the part that writes it and nowhere else; rules, dashboards, docs and code take it from
here. Base units; `_total` on counters; ratios are 0-1. Names follow the Prometheus naming guide, so that
`promtool check metrics` has nothing to say.
"""

# ruff: noqa: F403
from __future__ import annotations

from types import ModuleType

from fleet.metrics import autoscaler, exporter, extender, gateway, renderer, scene_agent, watch
from fleet.metrics.autoscaler import *
from fleet.metrics.exporter import *
from fleet.metrics.extender import *
from fleet.metrics.family import Kind as Kind
from fleet.metrics.family import Metric as Metric
from fleet.metrics.gateway import *
from fleet.metrics.renderer import *
from fleet.metrics.scene_agent import *
from fleet.metrics.watch import *


def _catalogue(*parts: ModuleType) -> dict[str, Metric]:
    """Every metric by its name, in the order of the parts and of their lines."""
    catalogue: dict[str, Metric] = {}
    for part in parts:
        for metric in vars(part).values():
            if isinstance(metric, Metric):
                if metric.name in catalogue:
                    raise ValueError(f"metric {metric.name} is declared twice")
                catalogue[metric.name] = metric
    return catalogue


CATALOGUE = _catalogue(renderer, gateway, exporter, scene_agent, extender, watch, autoscaler)
