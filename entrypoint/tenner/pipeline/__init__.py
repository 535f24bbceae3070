"""One run from settings to verified delivery."""
