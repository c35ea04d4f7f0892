"""Concept masks of data sets of pictures: which concepts there are, and where they are in a row."""
