"""Files: atomic writing, pickles and data sets read without trusting them."""
