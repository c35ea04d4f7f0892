"""The methods of `Dissect`: what is inside a model."""
