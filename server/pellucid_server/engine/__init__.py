"""Runs jobs on one device: the only package that knows torch."""
