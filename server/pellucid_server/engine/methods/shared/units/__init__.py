"""What units of layers do over a probe set: values, summaries, concepts, pictures."""
