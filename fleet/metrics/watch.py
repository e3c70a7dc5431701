"""Of whoever follows the API server."""

from __future__ import annotations

from fleet.metrics.family import declare

WATCH_SYNCED = declare("watch_synced", "gauge", ("resource",), "1 once the first list of a resource was read.")
WATCH_AGE = declare(
    "watch_event_age_seconds",
    "gauge",
    ("resource",),
    "Seconds since the API server last said anything about a resource, bookmarks too.",
    ("alerts",),
)
WATCH_FAILURES = declare(
    "watch_failures_total", "counter", ("resource",), "Lists and watches that ended in an error.", ("alerts",)
)
WATCH_EXPIRED = declare(
    "watch_expired_total", "counter", ("resource",), "Watches that the API server forgot, so that all was listed again."
)
WATCH_SKIPPED = declare(
    "watch_skipped_objects_total", "counter", ("resource",), "Objects that could not be read.", ("alerts",)
)
