"""Which operators a model file may name, and what each is held to."""
