"""Images in: sources, splits, statistics of the training split."""
