"""How Azure writes: requests, answers and errors."""
