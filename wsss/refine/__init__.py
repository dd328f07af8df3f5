"""Refinement of one image at a time on the CPU: arrays in, arrays out."""
