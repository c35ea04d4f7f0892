"""The worker processes: their lives, and the connections to them."""
