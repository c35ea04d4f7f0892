"""One functional graph for every model, and what is derived from it."""
