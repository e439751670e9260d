"""Where cells come from: readers of annotated images, synthetic neurons, folds."""
