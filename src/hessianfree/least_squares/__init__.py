"""Residuals made small."""
