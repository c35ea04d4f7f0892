"""The search for inputs that units respond to most: objectives, constraints, ascent."""
