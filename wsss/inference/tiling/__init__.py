"""Tiled execution for CPUs: `tile.tile_network` is the one entry, used where maps exceed a stated bound."""
