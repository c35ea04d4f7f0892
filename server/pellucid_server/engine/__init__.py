"""Runs requests on one device: the only package that knows torch."""
