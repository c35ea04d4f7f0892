"""What each RPC means: one module an RPC, and what they share."""
