"""Methods of `Attribute`: each scores the elements of one row's input."""
