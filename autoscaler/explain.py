"""A decision in one readable line."""

from __future__ import annotations

from autoscaler.decision import Reason
from autoscaler.evidence import Evidence
from autoscaler.observation import Observation
from autoscaler.pool import Pool


def explain(pool: Pool, observation: Observation, evidence: Evidence, replicas: int, want: int, reason: Reason) -> str:
    """One line with the numbers that decided."""
    verb = "up" if replicas > observation.desired else "down" if replicas < observation.desired else "hold"
    move = f"{verb} {replicas}" if verb == "hold" else f"{verb} {observation.desired}->{replicas}"
    rate = "demand no data" if evidence.rate_per_s is None else f"demand {evidence.rate_per_s:.3g}/s"
    parts = [rate]
    view = evidence.view
    if view is not None and evidence.need is not None:
        peak = view.quantiles[view.working_quantile]
        source = "persistence" if view.gated else "mixture"
        ahead = f"forecast q{view.working_quantile:g} {peak:.3g}/s in {evidence.lead_s:.3g} s"
        parts.append(f"{ahead} ({source}) needs {evidence.need}")
    parts.append(f"floor {evidence.floor} ({evidence.floor_reason})")
    if reason is Reason.KEEP:
        parts.append(f"{evidence.keep} needed again within a start-up of {evidence.startup_s:.3g} s")
    if reason is Reason.AT_MAX:
        parts.append(f"{want} wanted, max {pool.max_replicas}")
    if reason is Reason.FLAP_BUDGET:
        parts.append(f"{pool.behavior.max_reversals} reversals a day are spent")
    if reason in (Reason.STALE, Reason.BLIND):
        parts.append(f"data {observation.data_age_s:.0f} s old")
    if observation.pending:
        parts.append(f"{observation.pending:.0f} wait")
    if observation.starting:
        parts.append(f"{len(observation.starting)} starting")
    if observation.note:
        parts.append(observation.note)
    frame = f"frame {evidence.service.mean_s:.3g} s"
    parts.append(frame if evidence.measured else f"{frame} (configured, not measured yet)")
    return f"{move}: {reason}: " + ", ".join(parts)
