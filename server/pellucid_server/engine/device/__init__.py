"""The device: packs rows into batches, shares its time out, and measures it."""
