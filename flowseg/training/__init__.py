"""From records to a trained network."""
