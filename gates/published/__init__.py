"""Gates that others published: which there are, for which models, and fetching them."""
