"""What cannot be compiled: layers, losses and plants that users write in numpy."""
