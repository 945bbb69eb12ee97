"""The optimizer itself: pure JAX on pytrees, knowing no network, no file and no print."""
