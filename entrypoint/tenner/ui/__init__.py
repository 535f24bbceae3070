"""What a person sees while it runs: the terminal, webhooks."""
