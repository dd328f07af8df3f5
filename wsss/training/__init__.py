"""What the training program is made of: options, strategies, the run directory, checkpoints, callbacks."""
