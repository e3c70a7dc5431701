"""A real Kubernetes control plane on one machine, without containers: etcd, API server, controllers and scheduler."""
