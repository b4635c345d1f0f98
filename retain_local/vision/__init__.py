"""Pictures: reading them into embeddings, and their place in a text."""
