"""Triton, scene store and GPUs of one node, as Prometheus metrics and as the node digest."""
