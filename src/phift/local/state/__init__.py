"""What a local workspace remembers, and what tests order of it."""
