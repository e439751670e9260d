"""Drawn neurons, and data sets made of them."""
