"""What every part of the package uses: constants, errors, command lines, files, TensorFlow's import."""
