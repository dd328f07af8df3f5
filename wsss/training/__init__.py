"""Training of models: options, strategies, the run directory, checkpoints, callbacks and the loop."""
