"""Methods that change parts of a network."""
