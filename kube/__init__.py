"""The API server: list-watch, patches, Lease; no decision in it."""
