"""The residual U-Net that regresses flows and cell probability, and its checkpoints."""
