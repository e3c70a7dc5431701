"""Recording rules, alerts and dashboards, made from the names of fleet.metrics and fleet.recordings."""
