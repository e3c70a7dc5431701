"""A fleet on one machine: real Triton processes as pods, folders as nodes."""
