"""From an image to its instances."""
