"""Methods that look for another input."""
