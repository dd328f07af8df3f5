"""Pure tensor functions on `keras.ops`; channels last."""
