"""Signal processing: pure functions on arrays."""
