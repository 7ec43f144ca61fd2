"""What to build: search spaces, strategies, training, cost models and the command line."""
