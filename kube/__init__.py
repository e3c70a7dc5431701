"""The API server: list-watch, patches, Lease, certificates that reload; no decision in it."""
