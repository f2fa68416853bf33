"""What the fine-tuning component takes and does, each thing once: for the check, the count of tokens and the engine."""
