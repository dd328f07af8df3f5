"""Beam PTransforms: read, predict, refine, write, score."""
