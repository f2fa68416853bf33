"""The command line: its commands, what an interruption leaves, and the demonstration."""
