"""Collections of images with tags or masks: reading them, the record format, augmentation, tf.data."""
