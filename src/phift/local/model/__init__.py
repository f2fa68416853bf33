"""What there is in a local workspace, without a request or an answer in it."""
