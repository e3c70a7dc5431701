"""Each reason in words, for people who ask why a count is what it is."""

from __future__ import annotations

from autoscaler.decision import Reason

WORDS: dict[Reason, str] = {
    Reason.FORECAST: "the forecast needs more than the present does",
    Reason.DEMAND: "recent demand needs it",
    Reason.PENDING: "requests wait",
    Reason.QUEUE_RATIO: "the queue-to-compute ratio is over its threshold and nothing starts",
    Reason.HEADROOM: "a share of the demand is kept free, and the forecast alone needs no more than the present does",
    Reason.BACKLOG: "the forecast's need and the queue that is to be drained",
    Reason.STEADY: "as many as are needed",
    Reason.STARTING: "enough are asked for, some still start",
    Reason.KEEP: "a pod is wanted back within the time that a new one would take to start",
    Reason.SETTLING: "more were needed a moment ago",
    Reason.WHAT_IF: "with one pod fewer those that serve now would miss the objective",
    Reason.FLAP_BUDGET: "a reversal would cost more than the pods that are held",
    Reason.WAKE: "past days had traffic about now",
    Reason.STOCK_OUT: "pods that were asked for get no machine, so no more are asked for",
    Reason.GPU_BUDGET: "the GPUs of all pools do not suffice",
    Reason.PAUSED: "the count is held by hand",
    Reason.SURPLUS: "more than are needed, by every rule",
    Reason.AT_MAX: "more are needed than maxReplicas allows",
    Reason.AT_MIN: "fewer would do, minReplicas or a way down that is held keeps them",
    Reason.NO_DATA: "there is no demand data",
    Reason.STALE: "the demand data are too old to shrink by",
    Reason.BLIND: "no demand data for so long that nothing is forecast",
    Reason.OBSERVE_FAILED: "the pool could not be observed, or its decision failed",
    Reason.ACT_FAILED: "the decision could not be carried out; the next tick tries again",
}
