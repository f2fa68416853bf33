"""What is looked up and checked before anything is paid for."""
