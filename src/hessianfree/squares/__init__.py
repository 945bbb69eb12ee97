"""Least squares: residuals, Levenberg-Marquardt steps, and the run."""
