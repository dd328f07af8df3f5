"""Collections, the record format, and tf.data input."""
