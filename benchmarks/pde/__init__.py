"""Partial differential equations that are solved to the last digits: references, problems, peers, and one run."""
