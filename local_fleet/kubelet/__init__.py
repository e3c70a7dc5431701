"""A kubelet for tests: emulated GPU nodes whose pods are real processes of this machine."""
