"""The demo: real models, served, with their predictions explained (`make demo`)."""
