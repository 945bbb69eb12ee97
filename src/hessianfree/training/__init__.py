"""The training loop, its results and its callbacks."""
