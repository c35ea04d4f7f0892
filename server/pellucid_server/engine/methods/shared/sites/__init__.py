"""Changes of the network at sites, and what comes of them."""
