"""Many runs: one after another on one machine, or on a cluster."""
