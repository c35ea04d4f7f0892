"""activations: what units do over a probe set."""
