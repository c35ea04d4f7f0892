"""Reads, checks and runs ONNX files."""
