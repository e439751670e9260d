"""Many images in, files out."""
