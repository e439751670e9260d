"""Cells as a field of arrows: label images to flows, and flows back to label images."""
