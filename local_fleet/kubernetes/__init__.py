"""The local fleet under a real Kubernetes: our components as pods of emulated nodes, a pool that controllers scale."""
