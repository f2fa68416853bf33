"""What runs in a local workspace: trainings, scoring processes, and the models they start from."""
