"""Where Python runs: the hub, the threads beside it, the helper processes, and the state of a request."""
