"""How fast a model runs here, beside others on the same weights, and beside what this machine can do at most."""
