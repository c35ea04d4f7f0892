"""Statistics over the rows of a probe set: bounded in memory, mergeable, and saved with the methods' states."""
