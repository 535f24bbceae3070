"""Facts of sd-scripts: its options, its buckets, its schedules."""
