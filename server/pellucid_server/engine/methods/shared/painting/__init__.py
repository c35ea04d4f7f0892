"""Pictures that units respond to most: how they are parameterised, seen and improved."""
