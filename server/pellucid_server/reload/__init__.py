"""Models that change while they are served: what the front sees in the repository, and what it has the workers do."""
