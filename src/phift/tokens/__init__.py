"""What a conversation is to the model: its tokens, counted and shown."""
