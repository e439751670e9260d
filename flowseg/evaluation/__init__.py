"""Scores of files, and thresholds calibrated on them."""
