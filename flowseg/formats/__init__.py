"""Foreign formats: one module for each, reading and writing."""
