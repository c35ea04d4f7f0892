"""A long mixed load on the real server, with callers and workers killed, and what must hold then: `python -m soak`."""
