"""Labelled data sets beside the models: found, described and read row by row."""
