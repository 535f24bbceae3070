"""A run over all its attempts: ledger, resume, upload, delivery."""
