"""Changes of the network over labelled data sets."""
