"""Other autoscalers, each from its source: one class a policy, pure functions for what its own tests pin down."""
