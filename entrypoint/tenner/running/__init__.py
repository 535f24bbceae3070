"""A run over all its lives: its folder and ledger, what it sends meanwhile, how it goes on."""
