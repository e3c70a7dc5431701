"""Pod + nodes -> fit + score: the extender behind kube-scheduler that prices warm scenes and MIG slices in seconds."""
