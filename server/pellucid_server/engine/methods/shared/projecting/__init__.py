"""Layers in few dimensions: points, embeddings, plots."""
