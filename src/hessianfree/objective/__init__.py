"""The user's model, loss and arrays, checked once."""
