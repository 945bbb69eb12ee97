"""Layers, losses and plants: what users combine and extend."""
