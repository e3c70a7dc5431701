"""A decision in one readable line."""

from __future__ import annotations

from collections.abc import Iterator

from autoscaler.decision import Reason
from autoscaler.evidence import Evidence
from autoscaler.observation import Observation
from autoscaler.schedule import Limits


def explain(
    limits: Limits, observation: Observation, evidence: Evidence, replicas: int, want: int, reason: Reason
) -> str:
    """One line with the numbers that decided."""
    verb = "up" if replicas > observation.desired else "down" if replicas < observation.desired else "hold"
    move = f"{verb} {replicas}" if verb == "hold" else f"{verb} {observation.desired}->{replicas}"
    rate = "demand no data" if evidence.rate_per_s is None else f"demand {evidence.rate_per_s:.3g}/s"
    parts = [rate]
    view = evidence.view
    if view is not None and evidence.need is not None:
        peak = view.quantiles[view.working_quantile]
        source = "persistence" if view.gated else "mixture"
        source += ", burst" if view.burst else ""
        ahead = f"forecast q{view.working_quantile:g} {peak:.3g}/s in {evidence.lead_s:.3g} s"
        parts.append(f"{ahead} ({source}) needs {evidence.need}")
    parts.append(f"floor {evidence.floor} ({evidence.floor_reason})")
    parts += _circumstances(limits, observation, evidence, want, reason)
    if observation.starting:
        parts.append(f"{len(observation.starting)} starting")
    if observation.unhealthy:
        parts.append(f"{observation.unhealthy} on unhealthy slices, which are counted out")
    if observation.note:
        parts.append(observation.note)
    frame = f"frame {evidence.service.mean_s:.3g} s"
    parts.append(frame if evidence.measured else f"{frame} (configured, not measured yet)")
    return f"{move}: {reason}: " + ", ".join(parts)


def _circumstances(
    limits: Limits, observation: Observation, evidence: Evidence, want: int, reason: Reason
) -> Iterator[str]:
    pool = limits.pool
    if reason is Reason.KEEP:
        yield f"{evidence.keep} needed again within a start-up of {evidence.startup_s:.3g} s"
    if reason is Reason.AT_MAX:
        yield f"{want} wanted, max {pool.max_replicas}"
    if reason is Reason.FLAP_BUDGET:
        yield f"a reversal costs more now than the surplus, priced for {pool.behavior.max_reversals} a day"
    if reason in (Reason.STALE, Reason.BLIND):
        yield f"data {observation.data_age_s:.0f} s old"
    if observation.pending:
        stands = ", as many as before though nobody is said to arrive" if evidence.standing else ""
        yield f"{observation.pending:.0f} wait{stands}"
    if pool.behavior.headroom > 0 and evidence.view is not None:
        yield f"{pool.behavior.headroom:.0%} of the demand kept free"
    if evidence.margin != 1.0:
        yield f"margin x{evidence.margin:.2f} for late requests"
    if evidence.objective.violation_ratio > pool.objective.violation_ratio:
        yield f"sized for {100 * evidence.objective.violation_ratio:.1f} % late, as few were"
    if evidence.wake is not None:
        yield f"traffic about now on {evidence.wake:.0%} of past days"
    if evidence.stuck:
        yield f"{evidence.stuck} without a machine for over {2 * evidence.startup_s:.3g} s, {want} wanted"
    if limits.note:
        yield limits.note
