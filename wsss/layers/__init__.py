"""Keras layers of the networks: convolution blocks, class maps, pixel correlation, resizing, heads."""
