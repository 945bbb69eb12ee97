"""Checks, keys and runtime."""
