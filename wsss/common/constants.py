"""The numbers in a mask: 0 is the background, `k + 1` is class `k`, `IGNORE` a pixel of no class."""

IGNORE = 255
MAX_CLASSES = IGNORE - 1  # a mask has 8 bits a pixel
