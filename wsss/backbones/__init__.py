"""Backbones: feature extractors with named stages."""
