"""Base models: which one is meant, what it is, and where it comes from."""
