"""What the user asked for: the run, its data, and what every part of a configuration is made of."""
