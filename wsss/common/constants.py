"""The numbers in a mask: 0 is the background, `k + 1` is class `k`, `IGNORE` a pixel of no class."""

IGNORE = 255
