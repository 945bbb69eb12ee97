"""A network as a pure function."""
