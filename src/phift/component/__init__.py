"""What the fine-tuning component takes and does."""
