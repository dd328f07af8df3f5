"""Masks in the file formats of annotation tools and of training frameworks."""
