"""How graphs run: on which runner, in waves, on a cluster, and what is seen of it meanwhile."""
