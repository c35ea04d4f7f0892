"""Reads `.pt2` files without running anything that they hold."""
