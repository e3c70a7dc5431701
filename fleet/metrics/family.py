"""What is said of one metric, and how it is declared."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Kind = Literal["counter", "gauge", "histogram", "info"]


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric family. `read_by` names who decides or draws by it."""

    name: str
    kind: Kind
    labels: tuple[str, ...]
    help: str
    read_by: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()


def declare(
    name: str,
    kind: Kind,
    labels: tuple[str, ...],
    help: str,
    read_by: tuple[str, ...] = (),
    buckets: tuple[float, ...] = (),
) -> Metric:
    """A metric whose name begins with our prefix; `fleet.metrics` lists it."""
    return Metric(f"splatfleet_{name}", kind, labels, help, read_by, buckets)


FRAME_SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.033, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
WAIT_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
LOAD_SECONDS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)
HTTP_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0)
