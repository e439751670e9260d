"""NumPy in, NumPy out: run lengths, label images, overlaps, intensities. No files, no torch."""
