"""Serves models over gRPC and explains every prediction: `rpc` takes a request, `pool` routes it, `engine` does it."""
