"""From what callers send to rows as a model takes them, and the rows that stand for absence."""
