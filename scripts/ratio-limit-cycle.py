"""Draws docs/images/ratio-limit-cycle.svg: an HPA on the queue-to-compute ratio under demand that never changes."""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl
import numpy as np

from fleet.traffic import DAY_S, RateTrace
from simulator.contenders import make_player
from simulator.scaling import Setting

HOURS = 4.0
BUSY_PODS = 10.0
OUT = Path(__file__).resolve().parents[1] / "docs" / "images" / "ratio-limit-cycle.svg"


def counts(policy: str, knob: float) -> tuple[list[float], list[int], float]:
    """Seconds, pods asked for at them, and the share of requests that waited too long, over the last HOURS of a day."""
    constant = RateTrace(60.0, np.full(round((DAY_S + HOURS * 3600.0) / 60.0), 600.0))
    case = Setting(constant, mean_pods=BUSY_PODS, test_from_day=1.0, train_days=0.0).case(seed=1)
    player, pool = make_player(case, policy, knob)
    world = case.world(pool)
    at_s: list[float] = []
    pods: list[int] = []
    while world.now_s < case.traffic.end_s:
        player.act(world)
        at_s.append(world.now_s)
        pods.append(len(world.pods))
        world.advance(min(world.now_s + player.sync_s, case.traffic.end_s))
    world.finish()
    days = world.queue.by_day
    return at_s, pods, float(days[:, 1].sum() / days[:, 0].sum())


def draw() -> None:
    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "splatfleet"
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(9, 3.2), layout="constrained")
    for policy, knob, name, colour in (
        ("hpa-ratio", 1.0, "HPA, queue-to-compute ratio, target 1", "#cf3535"),
        ("splatfleet", 0.95, "Splatfleet", "#17936a"),
    ):
        at_s, pods, late = counts(policy, knob)
        label = f"{name}: {late:.2%} of requests wait over 0.5 s"
        axes.step(np.array(at_s) / 3600.0, pods, where="post", label=label, color=colour, linewidth=1.4)
    axes.axhline(BUSY_PODS, color="#5c6673", linestyle=":", label=f"{BUSY_PODS:.0f} pods are busy all the time")
    axes.set(xlabel="hours of constant demand", ylabel="pods", xlim=(0, HOURS), ylim=(0, None))
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="lower left", bbox_to_anchor=(0, 1.0), ncols=2)
    figure.savefig(OUT, metadata={"Date": None})


if __name__ == "__main__":
    draw()
