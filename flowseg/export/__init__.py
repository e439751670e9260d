"""What leaves flowseg for other programs."""
