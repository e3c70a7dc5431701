"""The command `splatfleet`: a thin verb per module, nothing else."""
