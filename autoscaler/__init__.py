"""Demand in, replicas and warm scenes out: forecast, capacity, policy and the loop that joins them."""
