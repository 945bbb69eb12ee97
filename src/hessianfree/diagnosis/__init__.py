"""What may be wrong with a run: rules over its records, and over what it knew of its data and its network."""
