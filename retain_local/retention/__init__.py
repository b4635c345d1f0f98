"""What the cache of a model keeps: reading it, and steering it while the model runs."""
