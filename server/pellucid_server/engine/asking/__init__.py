"""What a method is asked, what it may ask of a model, and how it is registered."""
