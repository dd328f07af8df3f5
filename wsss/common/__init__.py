"""Shared by all packages: constants, errors, command lines, files, fingerprints, TensorFlow's import."""
