"""What every other package may use: errors, events, files, secrets."""
