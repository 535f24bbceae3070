"""What will be done, with which memory, in what time, for how much. Pure but for the probe."""
