"""The server's answers and the clients' requests against the generated models of two independent clients."""
