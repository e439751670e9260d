"""Scores of two segmentations."""
