"""The files of a model repository: which may be read, and what `model.toml` says."""
