"""Live plots, panels and figures."""
