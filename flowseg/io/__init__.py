"""Bytes on disk to arrays and rows, and back; every write is atomic."""
