"""Many devices and many processes: which devices a run uses, where arrays lie, and what processes agree on."""
