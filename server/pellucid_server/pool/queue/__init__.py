"""The requests that wait for a worker: who is admitted, and who is next."""
