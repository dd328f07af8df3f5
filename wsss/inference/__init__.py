"""Class activation maps and pairwise affinities from trained models."""
