"""Base models: which one a setting names, what it is, and where it is fetched from."""
