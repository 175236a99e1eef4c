"""How one model is laid over several GPUs, outside the model's own code."""
