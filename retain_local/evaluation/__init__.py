"""What eviction costs: the same questions asked of a model with a full cache and with small ones."""
